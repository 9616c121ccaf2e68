//! One input made from others: small damage, words of the format, lengths that
//! lie.

/// SplitMix64: every seed gives a sequence of its own.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A stretch of something so long.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let begin = self.below(length + 1);
        let most = (length - begin).min(1 << self.below(8));
        begin..begin + self.below(most + 1)
    }
}

/// Bytes that mean something somewhere.
const BYTES: &[u8] = b"\0\n\r\t \x1b\"'\\/.:;,-+=<>{}[]()%$`#@*0\x7f\x80\xc3\xff";

/// Numbers at the ends of what types hold, and what is almost a number.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "+1",
    "255",
    "256",
    "65535",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999999999999",
    "1e999",
    "1.5",
    "0x10",
    "007",
    "NaN",
];

/// Pieces that text formats trip over.
const PIECES: &[&str] = &[
    "\u{feff}",
    "\u{202e}",
    "\u{e4}",
    "\u{1f600}",
    "\u{9b}",
    "\x1b[2J",
    "\x1b]0;x\x07",
    "../",
    "\\u0000",
    "\\ud800",
    "null",
    "true",
    "\r\n\r\n",
    "\n\n",
    "[[[[[[[[",
    "{\"\":",
    "xn--",
];

/// Damages `bytes` in one to a few places; the result is no longer than `most`.
pub fn mutate(
    bytes: &mut Vec<u8>,
    pool: &[Vec<u8>],
    words: &[Vec<u8>],
    random: &mut Random,
    most: usize,
) {
    for _ in 0..=random.below(4) {
        once(bytes, pool, words, random);
        bytes.truncate(most);
    }
}

fn once(bytes: &mut Vec<u8>, pool: &[Vec<u8>], words: &[Vec<u8>], random: &mut Random) {
    let at = random.range(bytes.len());
    match random.below(14) {
        0 if !bytes.is_empty() => {
            let place = random.below(bytes.len());
            bytes[place] ^= 1 << random.below(8);
        }
        1 if !bytes.is_empty() => {
            let place = random.below(bytes.len());
            bytes[place] = *random.pick(BYTES);
        }
        2 => bytes.insert(at.start, *random.pick(BYTES)),
        3 => drop(bytes.drain(at)),
        4 => {
            let again = bytes[at.clone()].repeat(1 + random.below(3));
            bytes.splice(at.start..at.start, again);
        }
        5 => bytes.truncate(at.start),
        6 if !words.is_empty() => {
            let word = random.pick(words).clone();
            bytes.splice(at, word);
        }
        7 if !words.is_empty() => {
            let word = random.pick(words).clone();
            bytes.splice(at.start..at.start, word);
        }
        8 => drop(bytes.splice(at, random.pick(PIECES).bytes())),
        9 => number(bytes, random),
        10 => length(bytes, random),
        11 => {
            let other = random.pick(pool);
            let part = random.range(other.len());
            bytes.splice(at, other[part].iter().copied());
        }
        12 => {
            // The head of this one and the tail of another.
            let other = random.pick(pool);
            let from = random.below(other.len() + 1);
            bytes.truncate(at.start);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            // Far more of the same than anybody writes by hand.
            let some = bytes[at.clone()].to_vec();
            let times = 1 << random.below(9);
            bytes.splice(at.start..at.start, some.repeat(times));
        }
    }
}

/// Another number in the place of one that is written in digits.
fn number(bytes: &mut Vec<u8>, random: &mut Random) {
    let digits: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at].is_ascii_digit() && (at == 0 || !bytes[at - 1].is_ascii_digit()))
        .collect();
    if digits.is_empty() {
        return;
    }
    let begin = *random.pick(&digits);
    let length = bytes[begin..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let new = random.pick(NUMBERS).bytes();
    bytes.splice(begin..begin + length, new);
}

/// Another number in the place of one, two, four or eight bytes.
fn length(bytes: &mut [u8], random: &mut Random) {
    let width = 1 << random.below(4);
    if bytes.len() < width {
        return;
    }
    let at = random.below(bytes.len() - width + 1);
    let lie = match random.below(6) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX >> 1,
        3 => bytes.len() as u64,
        4 => 1 << random.below(64),
        _ => random.next(),
    };
    let big = lie.to_be_bytes();
    let little = lie.to_le_bytes();
    let written = match random.below(2) {
        0 => &big[8 - width..],
        _ => &little[..width],
    };
    bytes[at..at + width].copy_from_slice(written);
}

//! What settings become: messages, effective values, typed settings.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::*;

const CASES: &str = include_str!("../../tests/config/cases.txt");

/// An environment of these variables, with HOME unless it is among them.
pub fn vars(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
    move |name| {
        let mut pairs = pairs.iter().chain(&[("HOME", "/home/ann")]);
        let found = pairs.find(|(variable, _)| *variable == name);
        found.map(|(_, value)| value.into())
    }
}

/// Loads `text` as the settings file.
pub fn load(text: &str, env: &[(&str, &str)], flags: &Flags) -> Result<Loaded, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    Settings::load(Some(file.path()), &vars(env), flags)
}

#[test]
fn cases_have_their_results() {
    let (mut settings, mut results) = (Vec::new(), Vec::new());
    let is_case = |line: &&str| !line.is_empty() && !line.starts_with(['#', '?']);
    for line in CASES.lines().filter(is_case).chain(["end"]) {
        let (setting, result) = line.split_once("=> ").unwrap_or((line, ""));
        if !setting.is_empty() && !results.is_empty() {
            check(&settings, &results);
            (settings, results) = (Vec::new(), Vec::new());
        }
        settings.push(setting.trim_end());
        results.extend(Some(result).filter(|result| !result.is_empty()));
    }
}

fn check(settings: &[&str], results: &[&str]) {
    let (mut text, mut env, mut flags) = (String::new(), Vec::new(), Flags::default());
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    for line in settings {
        match (line.strip_prefix("--"), line.split_once('=')) {
            (Some(_), _) => {
                let [flag, key, value] = *Vec::from_iter(line.split(' ')) else {
                    panic!("{line}")
                };
                flags.set(key, value, flag);
            }
            (_, Some((name, value))) if is_name(name) => env.push((name, value)),
            _ => text += &format!("{line}\n"),
        }
    }
    let (mut messages, mut facts) = (Vec::new(), String::new());
    match load(&text, &env, &flags) {
        Err(error) => messages.push(error.to_string()),
        Ok(loaded) => {
            messages.extend(loaded.warnings.iter().map(ToString::to_string));
            facts = format!("{loaded:?}\n");
            for EffectiveSetting { key, value, origin } in &loaded.effective {
                facts += &format!("{key} = {value} ({origin})\n");
            }
            assert!(!facts.contains("s3cret"), "{facts}");
            let guest = loaded.settings.env.resolve(&vars(&env)).unwrap();
            facts += &format!("image {:?}\nsession {:?}\n", guest.image, guest.session);
        }
    }
    let case = format!("{settings:#?}\n{messages:#?}");
    assert!(!messages.concat().contains("s3cret"), "{case}");
    let mut messages = messages
        .iter()
        .map(|message| match message.strip_prefix('/') {
            Some(path) => path.split_once(':').unwrap().1,
            None => message,
        });
    let mut message = messages.next();
    for result in results {
        if message.is_some_and(|message| message.starts_with(result)) {
            message = messages.next();
        } else {
            assert!(facts.contains(result), "{result}\n{case}\n{facts}");
        }
    }
    assert_eq!(message, None, "{case}");
}

#[test]
fn keys_accept_and_reject_these_values() {
    for line in CASES.lines().filter_map(|line| line.strip_prefix("? ")) {
        let (key, values) = line.split_once(": ").unwrap();
        let (accepted, rejected) = values.split_once(" | ").unwrap();
        for (values, is_accepted) in [(accepted, true), (rejected, false)] {
            for value in values.split(' ') {
                let loaded = load(&format!("{key} = {value}"), &[], &Flags::default());
                assert_eq!(loaded.is_ok(), is_accepted, "{key} = {value}");
            }
        }
    }
}

#[test]
fn every_variable_sets_its_key() {
    let samples = "s T 77 7s localhost:7 /s 10.7.0.0/16 http://s seven agent tmux gateway truenas";
    for key in KEYS.iter().filter(|key| key.variable.is_some()) {
        let accepts = |text: &&str| key.kind.accepts(&key.kind.parse_variable(text));
        let (variable, sample) = (
            key.variable.unwrap(),
            samples.split(' ').find(accepts).unwrap(),
        );
        let loaded = load("", &[(variable, sample)], &Flags::default()).unwrap();
        let mut settings = loaded.effective.iter();
        let setting = settings.find(|setting| setting.key == key.name).unwrap();
        let value = key.kind.masked(&key.kind.parse_variable(sample));
        assert_eq!(
            (&setting.origin, &setting.value),
            (&Origin::Env(variable), &value)
        );
    }
}

#[test]
fn variable_that_is_not_utf8_is_an_error_where_it_is_needed() {
    let bytes = |_: &str| Some(OsString::from_vec(vec![b'/', 0xff]));
    let loaded = load("env = { A = { forward = true } }", &[], &Flags::default()).unwrap();
    let error = loaded
        .settings
        .env
        .resolve(&bytes)
        .err()
        .unwrap()
        .to_string();
    assert!(error.ends_with(":1:9: env.A takes the value of A, which is not valid UTF-8"));
    let error = Settings::load(Some(Path::new("/dev/null")), &bytes, &Flags::default());
    assert_eq!(
        error.unwrap_err().to_string(),
        "PIXELS_BACKEND: backend is not valid UTF-8"
    );
}

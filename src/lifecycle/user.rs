//! Whom commands run as inside a pixel.

use std::collections::BTreeMap;

use crate::model::{Error, Guest, Ids, Instance, Result, Subject};
use crate::provision;

/// The property that names the pixel's own user once it has one.
pub const KEY: &str = "user";
const PASSWD: &str = "/etc/passwd";
const LIMIT: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub user: String,
    pub owner: Ids,
    pub home: String,
    pub shell: String,
}

impl User {
    fn root() -> Self {
        Self {
            user: "root".into(),
            owner: Ids::ROOT,
            home: "/root".into(),
            shell: "/bin/sh".into(),
        }
    }

    /// The pixel's own user; root in a pixel that was never provisioned.
    pub fn default_for(instance: &Instance) -> Self {
        match instance.properties.get(KEY) {
            Some(user) => Self::named(user),
            None => Self::root(),
        }
    }

    /// What [`default_for`](Self::default_for) says of most pixels of somebody
    /// who has them provisioned, or not.
    pub fn expected(provisioned: bool) -> Self {
        match provisioned {
            true => Self::named(provision::USER),
            false => Self::root(),
        }
    }

    fn named(user: &str) -> Self {
        Self {
            home: format!("/home/{user}"),
            user: user.to_owned(),
            owner: Ids {
                uid: 1000,
                gid: 1000,
            },
            shell: "/bin/bash".into(),
        }
    }

    /// `root`, a name, a number, or `UID:GID`, looked up inside the pixel.
    pub async fn lookup(guest: &dyn Guest, wanted: &str) -> Result<Self> {
        if wanted == "root" || wanted == "0" {
            return Ok(Self::root());
        }
        let passwd = match guest.read_file(PASSWD, LIMIT).await {
            Ok(content) => String::from_utf8_lossy(&content).into_owned(),
            Err(error) if matches!(&error, Error::NotFound(Subject::Path(_))) => String::new(),
            Err(error) => return Err(error),
        };
        find_in_passwd(&passwd, wanted)
            .ok_or_else(|| Error::NotFound(Subject::User(wanted.to_owned())))
    }

    /// The variables a login sets.
    pub fn environment(&self) -> BTreeMap<String, String> {
        [
            ("HOME", &self.home),
            ("USER", &self.user),
            ("LOGNAME", &self.user),
            ("SHELL", &self.shell),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
    }
}

pub(super) fn find_in_passwd(passwd: &str, wanted: &str) -> Option<User> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group.parse::<u32>().ok()?)),
        None => (wanted, None),
    };
    let number = user.parse::<u32>().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else {
            return None;
        };
        let owner = Ids {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        };
        (name == user || number == Some(owner.uid)).then(|| User {
            user: name.to_owned(),
            owner,
            home: home.to_owned(),
            shell: if shell.is_empty() {
                "/bin/sh".into()
            } else {
                shell.to_owned()
            },
        })
    });
    // A number need not have an entry.
    let mut login = entry.or_else(|| {
        number.map(|uid| User {
            user: uid.to_string(),
            owner: Ids { uid, gid: uid },
            home: "/".into(),
            shell: "/bin/sh".into(),
        })
    })?;
    if let Some(gid) = group {
        login.owner.gid = gid;
    }
    Some(login)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nubuntu:x:1000:1001:,,,:/home/ubuntu:\n";

    #[test]
    fn names_numbers_and_pairs_are_found() {
        let by_name = find_in_passwd(PASSWD, "ubuntu").unwrap();
        assert_eq!(
            by_name.owner,
            Ids {
                uid: 1000,
                gid: 1001
            }
        );
        assert_eq!(by_name.shell, "/bin/sh");
        assert_eq!(find_in_passwd(PASSWD, "1000").unwrap().user, "ubuntu");
        assert_eq!(find_in_passwd(PASSWD, "1000:5").unwrap().owner.gid, 5);
        assert_eq!(find_in_passwd(PASSWD, "4242").unwrap().home, "/");
        assert_eq!(find_in_passwd(PASSWD, "nobody-here"), None);
        assert_eq!(find_in_passwd(PASSWD, "1000:x"), None);
    }
}

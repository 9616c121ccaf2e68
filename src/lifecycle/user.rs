//! The user that runs a command in a pixel.

use std::collections::BTreeMap;

use crate::model::{Error, Guest, Ids, Instance, Result, Subject};
use crate::provision;

/// The property with the name of the default user. Missing: root.
pub const KEY: &str = "user";
const PASSWD: &str = "/etc/passwd";
const PASSWD_LIMIT: u64 = 1024 * 1024;
const SHELL: &str = "/bin/sh";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub ids: Ids,
    pub home: String,
    pub shell: String,
}

impl User {
    fn root() -> Self {
        Self {
            name: "root".into(),
            ids: Ids::ROOT,
            home: "/root".into(),
            shell: SHELL.into(),
        }
    }

    /// Returns the default user of a pixel: `pixel`, or root if the pixel was
    /// never provisioned.
    pub fn default_for(instance: &Instance) -> Self {
        match instance.properties.get(KEY) {
            Some(name) => Self::provisioned(name),
            None => Self::root(),
        }
    }

    /// Returns the expected result of [`default_for`](Self::default_for) for a
    /// pixel whose properties are not yet known. `provisioned`: whether the
    /// settings enable provisioning.
    pub fn expected(provisioned: bool) -> Self {
        match provisioned {
            true => Self::provisioned(provision::USER),
            false => Self::root(),
        }
    }

    fn provisioned(name: &str) -> Self {
        Self {
            home: format!("/home/{name}"),
            name: name.to_owned(),
            ids: Ids {
                uid: 1000,
                gid: 1000,
            },
            shell: "/bin/bash".into(),
        }
    }

    /// Looks up a user inside the pixel: `root`, a name, a UID, or `UID:GID`. A
    /// UID need not exist. An unknown name is `Error::NotFound`.
    pub async fn lookup(guest: &dyn Guest, user: &str) -> Result<Self> {
        if user == "root" || user == "0" {
            return Ok(Self::root());
        }
        let passwd = match guest.read_file(PASSWD, PASSWD_LIMIT).await {
            Ok(content) => String::from_utf8_lossy(&content).into_owned(),
            Err(error) if matches!(&error, Error::NotFound(Subject::Path(_))) => String::new(),
            Err(error) => return Err(error),
        };
        find_in_passwd(&passwd, user).ok_or_else(|| Error::NotFound(Subject::User(user.to_owned())))
    }

    /// Returns the environment variables that a login sets.
    pub fn environment(&self) -> BTreeMap<String, String> {
        [
            ("HOME", &self.home),
            ("USER", &self.name),
            ("LOGNAME", &self.name),
            ("SHELL", &self.shell),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
    }
}

pub(super) fn find_in_passwd(passwd: &str, user: &str) -> Option<User> {
    let (name_or_uid, gid) = match user.split_once(':') {
        Some((user, gid)) => (user, Some(gid.parse::<u32>().ok()?)),
        None => (user, None),
    };
    let uid = name_or_uid.parse::<u32>().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, entry_uid, gid, _, home, shell] = fields[..] else {
            return None;
        };
        let ids = Ids {
            uid: entry_uid.parse().ok()?,
            gid: gid.parse().ok()?,
        };
        (name == name_or_uid || uid == Some(ids.uid)).then(|| User {
            name: name.to_owned(),
            ids,
            home: home.to_owned(),
            shell: if shell.is_empty() { SHELL } else { shell }.to_owned(),
        })
    });
    let mut user = entry.or_else(|| {
        uid.map(|uid| User {
            name: uid.to_string(),
            ids: Ids { uid, gid: uid },
            home: "/".into(),
            shell: SHELL.into(),
        })
    })?;
    user.ids.gid = gid.unwrap_or(user.ids.gid);
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nubuntu:x:1000:1001:,,,:/home/ubuntu:\n";

    #[test]
    fn user_lookup_by_name_uid_and_uid_gid() {
        let find = |user: &str| {
            find_in_passwd(PASSWD, user)
                .map(|user| (user.name, user.ids.uid, user.ids.gid, user.home, user.shell))
        };
        let ubuntu = |gid| {
            let (home, shell) = ("/home/ubuntu".to_owned(), "/bin/sh".to_owned());
            Some(("ubuntu".to_owned(), 1000, gid, home, shell))
        };
        assert_eq!(find("ubuntu"), ubuntu(1001));
        assert_eq!(find("1000"), ubuntu(1001));
        assert_eq!(find("1000:5"), ubuntu(5));
        assert_eq!(
            find("4242"),
            Some(("4242".into(), 4242, 4242, "/".into(), "/bin/sh".into()))
        );
        assert_eq!(find("no-such-user"), None);
        assert_eq!(find("1000:x"), None);
    }
}

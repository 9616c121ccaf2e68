//! The instance that new instances are copied from: the image with an SSH
//! server. Installing that server takes longer than everything else in a
//! `create`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};

use super::files::root_of;
use crate::support::lab::creator_runs;
use crate::support::server::Server;
use crate::support::wait;

const PREFIX: &str = "t-template-";
const INSTALL: &str = "export DEBIAN_FRONTEND=noninteractive\n\
    until apt-get -q update && apt-get -q -y install --no-install-recommends openssh-server\n\
    do sleep 0.5; done\n\
    apt-get clean\n\
    rm -rf /var/lib/apt/lists/*\n\
    rm -f /etc/update-motd.d/*\n\
    : >/etc/machine-id\n\
    sync\n\
    touch /installed";
/// Time limit of the installation, to detect a hang.
const LIMIT: Duration = Duration::from_secs(300);

/// A stopped instance. The last simulated server that uses it deletes it.
pub struct Template {
    pub name: String,
    incus: Server,
}

impl Template {
    /// The template of this test process.
    pub fn shared(incus: &Server, image: &str) -> Arc<Self> {
        static SHARED: Mutex<Weak<Template>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let template = shared
            .upgrade()
            .unwrap_or_else(|| Arc::new(Self::make(incus, image)));
        *shared = Arc::downgrade(&template);
        template
    }

    fn make(incus: &Server, image: &str) -> Self {
        // The previous template may not be deleted yet.
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        delete_leftovers(incus);
        let template = Self {
            name: format!("{PREFIX}{}-{serial}", std::process::id()),
            incus: incus.clone(),
        };
        let name = &template.name;
        let body = json!({
            "name": name, "type": "container", "profiles": [], "start": true,
            "devices": {
                "root": {"type": "disk", "path": "/", "pool": "default"},
                "eth0": {"type": "nic", "nictype": "bridged", "parent": "incusbr0"},
            },
            "source": {"type": "image", "alias": image},
        });
        incus.done("POST", "/1.0/instances", &body);
        // A request of the test's client must not take as long as this command.
        incus.run(name, &["setsid", "-f", "sh", "-c", INSTALL]);
        let flag = root_of(name).join("installed");
        assert!(
            wait::within(LIMIT, || flag.exists()),
            "no SSH server in the template after {LIMIT:?}"
        );
        std::fs::remove_file(flag).unwrap();
        let stop = json!({"action": "stop", "force": true, "timeout": -1});
        incus.done("PUT", &format!("/1.0/instances/{name}/state"), &stop);
        template
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        delete(&self.incus, &self.name);
    }
}

fn delete(incus: &Server, name: &str) {
    let path = format!("/1.0/instances/{name}");
    let stop = json!({"action": "stop", "force": true, "timeout": -1});
    let _ = incus.try_done("PUT", &format!("{path}/state"), &stop);
    let _ = incus.try_done("DELETE", &path, &Value::Null);
}

/// Deletes templates of test processes that were killed.
fn delete_leftovers(incus: &Server) {
    let all = incus.get("/1.0/instances?recursion=1");
    let all = all.as_array().unwrap().iter();
    for name in all.filter_map(|one| one["name"].as_str()) {
        if name.starts_with(PREFIX) && !creator_runs(name) {
            delete(incus, name);
        }
    }
}

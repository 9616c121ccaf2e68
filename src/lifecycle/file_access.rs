//! Access to the files of a pixel on behalf of its user.

use super::policy::Enforcer;
use super::user::User;
use crate::model::{Backend, Error, Guest, Ids, Instance, Reason, Result, Subject, UserGuest};

/// Whether files may be accessed only with the rights of the default user: the
/// pixel enforces its own policy, and the user must not become root in it.
fn is_limited_to_user(instance: &Instance) -> bool {
    Enforcer::of_instance(instance) == Enforcer::Pixel
        && User::default_for(instance).ids != Ids::ROOT
}

/// Returns access to files on behalf of the default user. The access has the
/// rights of root, except in a pixel that enforces its own policy: there, it has
/// the rights of the user.
pub fn file_access<'a>(backend: &'a dyn Backend, instance: &'a Instance) -> Box<dyn Guest + 'a> {
    let guest = backend.guest(&instance.name);
    match is_limited_to_user(instance) {
        true => Box::new(UserGuest::new(guest, User::default_for(instance).ids)),
        false => guest,
    }
}

/// Fails with [`Error::Unsupported`] if [`file_access`] cannot set the owner of
/// files.
pub fn ensure_can_set_owner(instance: &Instance) -> Result<()> {
    if !is_limited_to_user(instance) {
        return Ok(());
    }
    let reason = Reason::from(
        "it enforces its own policy, so files are written with the rights of its user",
    );
    let hint = format!(
        "to write a file as root, run: pixels exec -u root {} -- tee PATH <FILE",
        instance.name
    );
    Err(Error::Unsupported {
        operation: format!("setting the owner in {}", Subject::pixel(&instance.name)),
        reason: reason.with_hint(hint),
    })
}

//! The meaning of messages of the Incus daemon.
//!
//! The daemon's error codes are not systematic: most failed operations have
//! code 400 or 500, whatever the cause. Some decisions therefore depend on the
//! text. Every such text is a row of [`ROWS`] with a sample message; all other
//! code matches on [`Meaning`]. A message without a row has no meaning and is
//! shown unchanged.
//!
//! All rows are for Incus 6.0.4. These samples were recorded from a running
//! daemon: UNIQUE constraint, already stopped, not running, is running, command
//! not found and not executable, network already exists, project not found, disk
//! quota exceeded, saving config file, and the failed connection to an image
//! server. The other samples are composed from format strings in the Incus source.

/// Description of the operation that restores a snapshot.
pub(super) const RESTORE_OPERATION: &str = "Restoring snapshot";
/// Description of the operation of a command.
pub(super) const EXEC_OPERATION: &str = "Executing command";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Another operation runs on the instance. Some concurrent operations fail with
    /// other messages. Retry the request.
    InstanceBusy,
    /// Another operation changed the host's interfaces or packet filter at the same
    /// time. Retry the request.
    HostNetworkBusy,
    /// Another request is creating an instance with this name.
    NameBeingCreated,
    /// An instance with this name is on the same network in another project.
    NameOnNetwork,
    AlreadyExists,
    AlreadyStopped,
    NotRunning,
    /// The instance is running. Only a stopped instance can be deleted.
    StillRunning,
    /// The host has a route to the network in an interface's `ipv4.routes`.
    /// [`detail`] returns the network.
    RouteExists,
    /// The bridge has the maximum number of ports.
    BridgeFull,
    /// LXC did not start the container. The reason is in the instance's `lxc.log`.
    StartFailed,
    /// A restore that overlapped with another request left a plain directory at the
    /// disk's path (see `instance_lock`). [`detail`] returns the path.
    DiskLost,
    /// The instance's disk has reached its limit.
    DiskFull,
    ProjectMissing,
    /// The server has no unused range of user ids, or does not allow isolated ids.
    NoIdRange,
    /// The server does not allow the key `raw.lxc`.
    RawLxcDenied,
    CommandNotFound,
    CommandNotExecutable,
    /// The image server does not have the image.
    ImageMissing,
    /// Any other failure related to the image.
    ImageFailed,
}

/// Parts that must all occur in the message (with `: ` before and a line end
/// after the message); the meaning; and a sample message of Incus 6.0.4.
type Row = (&'static [&'static str], Meaning, &'static str);

/// The first matching row determines the meaning.
static ROWS: &[Row] = &[
    (
        &["creating instance record", "is busy"],
        Meaning::NameBeingCreated,
        r#"Failed creating instance record: Instance is busy running a "create" operation"#,
    ),
    (
        &["is busy running"],
        Meaning::InstanceBusy,
        r#"Failed to create instance stop operation: Instance is busy running a "start" operation"#,
    ),
    (
        &["matching non-reusable operation"],
        Meaning::InstanceBusy,
        "A matching non-reusable operation has now succeeded",
    ),
    // Each change ends with a comparison of two lists of snapshots. While another
    // command creates or deletes a snapshot, only one list contains the snapshot.
    (
        &["doesn't match instance snapshot volume record count"],
        Meaning::InstanceBusy,
        "Instance snapshot record count doesn't match instance snapshot volume record count",
    ),
    (
        &["Instance snapshot record missing for"],
        Meaning::InstanceBusy,
        r#"Instance snapshot record missing for "ready""#,
    ),
    // A restore stops the instance and unmounts the disk. Another command has
    // started the instance or mounted the disk in between.
    (
        &["Failed stopping instance, status is \"Running\""],
        Meaning::InstanceBusy,
        r#"Failed stopping instance, status is "Running""#,
    ),
    (&[": In use\n"], Meaning::InstanceBusy, "In use"),
    (
        &["Failed to create mount directory", "file exists\n"],
        Meaning::InstanceBusy,
        concat!(
            r#"Failed to create mount directory "/var/lib/incus/containers/px-a": "#,
            "mkdir /var/lib/incus/containers/px-a: file exists"
        ),
    ),
    // The daemon inspects all interfaces of the host one by one, and fails if an
    // interface was deleted in the meantime.
    (
        &["ip -d -j link show", "does not exist"],
        Meaning::HostNetworkBusy,
        concat!(
            "Failed to run: ip -d -j link show veth6f2b1c4d: exit status 1 ",
            r#"(Device "veth6f2b1c4d" does not exist.)"#
        ),
    ),
    // Two changes of a network's packet filter overlapped: the first change did not
    // find the chain that the second change replaced.
    (
        &["nft -f -", "No such file or directory"],
        Meaning::HostNetworkBusy,
        concat!(
            "Failed applying nftables rules: Failed to run: nft -f -: exit status 1 ",
            "(/dev/stdin:2:1-40: Error: No such file or directory)"
        ),
    ),
    (
        &["already used on network"],
        Meaning::NameOnNetwork,
        r#"Failed add validation for device "eth0": Instance DNS name "px-a" already used on network"#,
    ),
    (
        &["ip -4 route add ", "File exists"],
        Meaning::RouteExists,
        concat!(
            r#"Failed to start device "eth0": Failed to run: ip -4 route add 10.98.0.0/16 "#,
            "dev incusbr0 proto static: exit status 2 (RTNETLINK answers: File exists)"
        ),
    ),
    (
        &[" master ", "Exchange full"],
        Meaning::BridgeFull,
        concat!(
            r#"Failed to start device "eth0": Failed to run: ip link set dev veth6f2b1c4d "#,
            "master pixels0: exit status 2 (RTNETLINK answers: Exchange full)"
        ),
    ),
    (
        &["forkstart"],
        Meaning::StartFailed,
        concat!(
            "Failed to run: /usr/libexec/incus/incusd forkstart px-a ",
            "/var/lib/incus/containers /run/incus/px-a/lxc.conf: exit status 1"
        ),
    ),
    (
        &["Failed deleting subvolume \"", "Not a Btrfs subvolume"],
        Meaning::DiskLost,
        concat!(
            r#"Failed deleting subvolume "/var/lib/incus/storage-pools/default/containers/px-a": "#,
            "Failed to run: btrfs subvolume delete ",
            "/var/lib/incus/storage-pools/default/containers/px-a: exit status 1 ",
            "(ERROR: Not a Btrfs subvolume: Invalid argument)"
        ),
    ),
    (
        &["disk quota exceeded"],
        Meaning::DiskFull,
        concat!(
            "Failed to write backup file: Failed to create file ",
            r#""/var/lib/incus/containers/px-a/backup.yaml": "#,
            "open /var/lib/incus/containers/px-a/backup.yaml: disk quota exceeded"
        ),
    ),
    (
        &["no space left on device"],
        Meaning::DiskFull,
        concat!(
            "Failed to write backup file: Failed to create file ",
            r#""/var/lib/incus/containers/px-a/backup.yaml": "#,
            "open /var/lib/incus/containers/px-a/backup.yaml: no space left on device"
        ),
    ),
    // liblxc, on a full btrfs pool with simple quotas.
    (
        &["saving config file for the container failed"],
        Meaning::DiskFull,
        "saving config file for the container failed",
    ),
    (
        &["already stopped"],
        Meaning::AlreadyStopped,
        "The instance is already stopped",
    ),
    (
        &["is not running"],
        Meaning::NotRunning,
        "Instance is not running",
    ),
    (
        &["is running"],
        Meaning::StillRunning,
        "Instance is running",
    ),
    (
        &["Project not found"],
        Meaning::ProjectMissing,
        "Failed loading project: Project not found",
    ),
    (
        &["uid/gid"],
        Meaning::NoIdRange,
        "Not enough uid/gid available for the container",
    ),
    (
        &["security.idmap.isolated"],
        Meaning::NoIdRange,
        concat!(
            r#"Invalid value "true" for config "security.idmap.isolated" on instance "px-a" "#,
            r#"of project "p""#
        ),
    ),
    (
        &["raw.lxc"],
        Meaning::RawLxcDenied,
        concat!(
            r#"Use of low-level config "raw.lxc" on instance "px-a" of project "p" "#,
            "is forbidden"
        ),
    ),
    (
        &["Command not found"],
        Meaning::CommandNotFound,
        "Command not found",
    ),
    (
        &["Command not executable"],
        Meaning::CommandNotExecutable,
        "Command not executable",
    ),
    (
        &["creating image record"],
        Meaning::ImageFailed,
        concat!(
            "Failed creating image record: Failed saving main image record: ",
            "UNIQUE constraint failed: images.project_id, images.fingerprint"
        ),
    ),
    (
        &["UNIQUE constraint failed"],
        Meaning::AlreadyExists,
        concat!(
            "Failed creating instance record: Add instance info to the database: ",
            r#"Failed to create "instances" entry: "#,
            "UNIQUE constraint failed: instances.project_id, instances.name"
        ),
    ),
    (
        &["already exists"],
        Meaning::AlreadyExists,
        r#"Network "pixels0" already exists"#,
    ),
    (
        &["image", "found"],
        Meaning::ImageMissing,
        concat!(
            "Failed getting remote image info: Failed getting image: ",
            "The requested image couldn't be found"
        ),
    ),
    (
        &["image"],
        Meaning::ImageFailed,
        concat!(
            "Failed getting remote image info: Failed getting image: Failed parsing stream: ",
            r#"Get "https://192.0.2.1/streams/v1/index.json": Unable to connect to: 192.0.2.1:443"#
        ),
    ),
    (
        &["Image", "found"],
        Meaning::ImageMissing,
        "Image alias not found",
    ),
    (
        &["Image"],
        Meaning::ImageFailed,
        "Image not provided for instance creation",
    ),
    (
        &["simplestreams"],
        Meaning::ImageFailed,
        "Unsupported protocol: simplestreams",
    ),
];

/// Returns the meaning of `message`, or `None` if no decision depends on the text.
pub(super) fn meaning(message: &str) -> Option<Meaning> {
    first_row(message).map(|(_, meaning, _)| *meaning)
}

fn first_row(message: &str) -> Option<&'static Row> {
    let line = format!(": {message}\n");
    ROWS.iter()
        .find(|(parts, ..)| parts.iter().all(|part| line.contains(part)))
}

/// Returns the network in a [`Meaning::RouteExists`] message, or the path in a
/// [`Meaning::DiskLost`] message.
pub(super) fn detail(message: &str) -> Option<String> {
    let (before, end) = match meaning(message)? {
        Meaning::RouteExists => ("ip -4 route add ", ' '),
        Meaning::DiskLost => ("Failed deleting subvolume \"", '"'),
        _ => return None,
    };
    let (_, rest) = message.split_once(before)?;
    let (detail, _) = rest.split_once(end)?;
    Some(detail.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_decides_its_sample() {
        for row @ (.., sample) in ROWS {
            assert!(std::ptr::eq(first_row(sample).unwrap(), row), "{sample}");
        }
    }

    #[test]
    fn other_messages_mean_nothing() {
        for message in [
            "",
            "Instance not found",
            "The instance is already running",
            "This operation can't be cancelled",
        ] {
            assert_eq!(meaning(message), None, "{message}");
        }
    }

    #[test]
    fn details_are_the_route_and_the_disk() {
        let of = |wanted: Meaning| {
            let row = ROWS.iter().find(|(_, meaning, _)| *meaning == wanted);
            detail(row.unwrap().2)
        };
        assert_eq!(of(Meaning::RouteExists).unwrap(), "10.98.0.0/16");
        assert_eq!(
            of(Meaning::DiskLost).unwrap(),
            "/var/lib/incus/storage-pools/default/containers/px-a"
        );
        assert_eq!(of(Meaning::InstanceBusy), None);
    }
}

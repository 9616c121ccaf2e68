//! The parts of help pages that clap does not generate: command groups and
//! examples.

/// The end of a help page: example command lines, which a test parses.
macro_rules! examples {
    ($($line:literal)+) => { concat!("Examples:" $(, "\n  ", $line)+) };
}

/// The commands of the main help page with their one-line descriptions.
pub(super) const GROUPS: &[(&str, &[(&str, &str)])] = &[
    (
        "Lifecycle",
        &[
            ("create", "Create a pixel from an image, or clone a pixel"),
            ("start", "Start a pixel and print its address"),
            ("stop", "Stop a pixel; its disk is kept"),
            ("destroy", "Delete pixels with their data and checkpoints"),
            ("list", "List all pixels [alias: ls]"),
            ("status", "Show the provisioning progress of a pixel"),
            (
                "provision",
                "Run failed and changed provisioning steps again",
            ),
            ("expire", "Set or clear a pixel's expiry"),
            (
                "prune",
                "Delete expired pixels and leftovers of interrupted commands",
            ),
        ],
    ),
    (
        "Work",
        &[
            ("exec", "Run a command in a pixel and exit with its status"),
            ("console", "Open a persistent shell session in a pixel"),
            ("sessions", "List the console sessions of a pixel"),
            ("push", "Copy files and folders into a pixel"),
            ("pull", "Copy files and folders out of a pixel"),
            (
                "sync",
                "Copy the differences between a local folder and a pixel",
            ),
            ("forward", "Forward local ports to ports of a pixel"),
            (
                "top",
                "Show CPU, memory, disk and network usage of running pixels",
            ),
            ("events", "Print events of pixels as JSON Lines"),
        ],
    ),
    (
        "State",
        &[
            (
                "checkpoint",
                "Create, list, restore and delete checkpoints [alias: cp]",
            ),
            ("fork", "Create several clones of a pixel or a checkpoint"),
            (
                "base",
                "Build and list bases, which are prepared pixels for clones",
            ),
        ],
    ),
    (
        "Network",
        &[("network", "Show and change egress policies and the gateway")],
    ),
    (
        "Agents",
        &[(
            "mcp",
            "Serve sandboxes to AI agents over the Model Context Protocol",
        )],
    ),
    (
        "Host",
        &[
            ("setup", "Install and configure Incus on this host"),
            (
                "doctor",
                "Diagnose the host and suggest a fix for each problem",
            ),
            ("quickstart", "Set up the host and run a short demo"),
            ("config", "Show the configuration"),
            ("completions", "Print a shell completion script"),
            (
                "man",
                "Print the manual page, or write all manual pages to a folder",
            ),
            ("help", "Print this message or the help of a command"),
        ],
    ),
];

/// clap's template of the main help page with the commands in groups.
pub fn main_template() -> String {
    let mut template = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (group, commands) in GROUPS {
        template.push_str(&format!("\n{group}:\n"));
        for (name, about) in *commands {
            template.push_str(&format!("  {name:<11}  {about}\n"));
        }
    }
    template.push_str("\nOptions:\n{options}{after-help}");
    template
}

pub const MAIN_EXAMPLES: &str = concat!(
    examples!(
        "pixels create box --egress agent     create a pixel with the agent policy"
        "pixels exec box -- uname -a          run a command in it"
        "pixels console box                   open a shell in it"
        "pixels destroy box                   delete it"
    ),
    "\n\nThe pixel NAME is the instance px-NAME on the server. Commands accept both names.\n\n",
    "Exit codes: 0 success, 1 failure, 2 wrong usage or configuration (no request was sent), \
     3 not found, 4 already exists, 5 server unreachable or not authorized, 130 and 143 \
     interrupted. exec and console exit with the command's own code, or 124 timed out, 125 \
     failure of pixels, 126 not executable, 127 command not found, 128+N killed by signal N.",
);

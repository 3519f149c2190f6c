//! What a package has beside the program: man pages and completions for shells, both made from the commands themselves, so
//! that they say what `--help` says.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, Subcommand};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, italic, roman};

/// Commands that make them, for who makes the package.
#[derive(Debug, Subcommand)]
pub enum Manual {
    /// Print the completions for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages, one for each command
    #[command(hide = true)]
    Manual {
        /// The folder
        dir: PathBuf,
    },
}

impl Manual {
    /// Makes them of the commands of the program `name`, which is `diode-` and its side.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn make(self, name: &'static str, command: &Command) -> anyhow::Result<()> {
        let command = shown(name, command);
        match self {
            Self::Completions { shell } => std::io::stdout()
                .write_all(&completions(name, command, shell))
                .context("cannot print the completions"),
            Self::Manual { dir } => write_pages(name, command, &dir)
                .with_context(|| format!("cannot write man pages into {}", dir.display())),
        }
    }
}

/// The program without what is hidden, which `clap_complete` would show.
fn shown(name: &'static str, command: &Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    let subcommands = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).cloned();
    Command::new(name)
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .subcommands(subcommands)
}

fn completions(name: &str, mut command: Command, shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    text
}

fn write_pages(name: &str, command: Command, dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)?;
    let mut page = std::fs::File::options().append(true).open(dir.join(format!("{name}.1")))?;
    files(name.strip_prefix("diode-").unwrap_or(name)).to_writer(&mut page)
}

/// What clap does not know: where a package has its files.
fn files(side: &str) -> Roff {
    let mut end = Roff::new();
    end.control("SH", ["FILES"]);
    for (path, what) in [
        (
            format!("/etc/diodesync/{side}.toml"),
            "The configuration, or a link to the one that init has written",
        ),
        (format!("/var/lib/diodesync-{side}"), "Keys, packs and journal"),
        (format!("/usr/share/doc/diodesync-{side}"), "The manual, README.md, and examples"),
    ] {
        end.control("TP", []).text([italic(path)]).text([roman(what)]);
    }
    end
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "diode-test", about = "A side for a test")]
    struct Cli {
        #[command(subcommand)]
        _command: Commands,
    }

    #[derive(Debug, Subcommand)]
    enum Commands {
        /// Hand something over
        #[command(subcommand)]
        Submit(Submit),
        #[command(flatten)]
        Manual(Manual),
    }

    #[derive(Debug, Subcommand)]
    enum Submit {
        /// Plain files
        Files {
            /// The channel
            #[arg(long, default_value = "main")]
            channel: String,
        },
    }

    #[test]
    fn each_command_has_a_page_and_those_that_are_hidden_have_none() {
        let dir = std::env::temp_dir().join(format!("diodesync-manual-{}", std::process::id()));
        Manual::Manual { dir: dir.clone() }.make("diode-test", &Cli::command()).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["diode-test-submit-files.1", "diode-test-submit.1", "diode-test.1"]);
        let page = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let (first, last) = (page("diode-test.1"), page("diode-test-submit-files.1"));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(first.contains("A side for a test") && first.contains("/etc/diodesync/test.toml"), "{first}");
        assert!(!first.contains("completions"), "{first}");
        assert!(last.contains("Plain files") && last.contains(r"\-\-channel"), "{last}");
    }

    #[test]
    fn completions_know_the_commands_and_not_those_that_are_hidden() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions("diode-test", shown("diode-test", &Cli::command()), shell);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("submit") && text.contains("channel"), "{shell}: {text}");
            assert!(!text.contains("manual") && !text.contains("completions"), "{shell}: {text}");
        }
    }
}

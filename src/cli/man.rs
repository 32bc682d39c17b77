//! The manual pages, made from what `--help` is made of: the definitions of [`commands`](super::commands), the texts of
//! [`texts`](super::texts), and the table of [`keys`].
//!
//! [`keys`]: crate::config::keys

mod conf;
mod page;
mod sections;

pub use page::Page;

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::command;
use super::texts::AFTER_LONG_HELP;
use page::{DATE, MANUAL, NAME, SOURCE};

/// The page of the program.
pub fn main_page() -> io::Result<Page> {
    page(&whole())
}

/// All pages: the program, each command that its help shows, the configuration file.
pub fn pages() -> io::Result<Vec<Page>> {
    let mut pages = Vec::new();
    collect(&whole(), &mut pages)?;
    pages.push(conf::page());
    Ok(pages)
}

/// The definitions with the full names of all commands worked out.
fn whole() -> Command {
    let mut command = command();
    command.build();
    command
}

fn collect(command: &Command, pages: &mut Vec<Page>) -> io::Result<()> {
    pages.push(page(command)?);
    command.get_subcommands().filter(|below| !below.is_hide_set()).try_for_each(|below| collect(below, pages))
}

fn page(command: &Command) -> io::Result<Page> {
    let man = Man::new(command.clone().subcommand_help_heading("COMMANDS"))
        .section("8")
        .date(DATE)
        .source(SOURCE)
        .manual(MANUAL);
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    further(command).to_writer(&mut out)?;
    Ok(Page { file: man.get_filename(), roff: text(out)? })
}

/// What stands below the flags: in the page of the program all of it, in that of a command what holds for it too.
fn further(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let is_program = command.get_name() == NAME;
    if let Some(settings) = command.get_after_help().filter(|_| !is_program) {
        roff.control("SH", ["SETTINGS"]);
        roff.text([roman(settings.to_string())]);
        sections::named("ENVIRONMENT", AFTER_LONG_HELP).render(&mut roff);
    }
    if is_program {
        sections::of(AFTER_LONG_HELP).for_each(|section| section.render(&mut roff));
    } else {
        sections::named("EXIT STATUS", AFTER_LONG_HELP).render(&mut roff);
        let also = sections::named("SEE ALSO", AFTER_LONG_HELP);
        roff.control("SH", [also.heading]);
        roff.text([roman(format!("{NAME}(8), {}", also.body()))]);
    }
    roff
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(io::Error::other)
}

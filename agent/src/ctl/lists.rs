//! `ctl deny` and `ctl allow`.

use super::Session;
use super::answers::{Counts, Network, Prefilter};
use super::args::ListCommand;
use super::client::segment;
use super::error::Error;
use super::print::{clean, table};
use super::status::kernel;
use http::Method;

/// Which list.
#[derive(Clone, Copy)]
pub(super) enum List {
    Deny,
    Allow,
}

impl List {
    fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }

    fn of(self, lists: &Prefilter) -> &[Network] {
        match self {
            Self::Deny => &lists.deny,
            Self::Allow => &lists.allow,
        }
    }
}

pub(super) async fn run(session: &mut Session<'_>, list: List, command: ListCommand) -> Result<(), Error> {
    let (method, cidrs) = match command {
        ListCommand::Add { cidrs } => (Method::PUT, cidrs),
        ListCommand::Remove { cidrs } => (Method::DELETE, cidrs),
        ListCommand::List => return show(session, list).await,
    };
    for cidr in &cidrs {
        let path = format!("/v1/prefilter/{}/{}", list.name(), segment(cidr));
        let answer = session.client.ask(method.clone(), &path).await?;
        session.show(&answer, |counts: Counts, out| writeln!(out, "{}: {counts}", clean(cidr)))?;
    }
    Ok(())
}

async fn show(session: &mut Session<'_>, list: List) -> Result<(), Error> {
    let answer = session.client.ask(Method::GET, "/v1/prefilter").await?;
    session.show(&answer, |lists: Prefilter, out| {
        let row = |network: &Network| vec![network.cidr.clone(), network.origin.clone()];
        let rows: Vec<_> = list.of(&lists).iter().map(row).collect();
        table(out, &[list.name(), "from"], &rows)?;
        writeln!(out, "\nkernel: {}", clean(&kernel(&lists.kernel)))
    })
}

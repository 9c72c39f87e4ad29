//! `kraftr admin`: orgs, keys and credits, straight on the database of a data directory.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kraftr_protocol::OrgId;
use kraftr_scheduler::clock::{SystemClock, SystemIds};
use kraftr_scheduler::domain::invariants::{Audit, Invariant};
use kraftr_scheduler::store::Store;
use kraftr_scheduler::store::sqlite::SqliteStore;

use crate::cli::{AdminArgs, AdminCommand, KeyCommand, LedgerCommand, OrgChoice, OrgCommand};
use crate::commands::Outcome;
use crate::data_dir::DataDir;
use crate::{fleet, output};

/// Runs the command. SQLite lets it work beside a running fleet.
pub async fn run(args: AdminArgs) -> Result<Outcome> {
    let directory = DataDir::existing(&args.data_dir)?;
    let store = SqliteStore::open(&directory.database(), Arc::new(SystemClock), Arc::new(SystemIds)).await?;
    match args.command {
        AdminCommand::Org(OrgCommand::List) => list_orgs(&store).await?,
        AdminCommand::Org(OrgCommand::Create { name }) => output::line(store.create_org(&name).await?.id)?,
        AdminCommand::Key(KeyCommand::Create { org, label }) => {
            let (key, secret) =
                fleet::create_key(&store, &SystemIds, chosen(&store, &org).await?, &label).await?;
            output::note(format_args!("{key}; the secret is shown this once:"))?;
            output::line(secret)?;
        }
        AdminCommand::Key(KeyCommand::List { org }) => list_keys(&store, chosen(&store, &org).await?).await?,
        AdminCommand::Key(KeyCommand::Revoke { key }) => {
            if !store.revoke_key(key).await? {
                bail!("there is no key {key}: `kraftr admin key list` shows them");
            }
            output::line(format_args!("{key} is revoked"))?;
        }
        AdminCommand::Grant { org, credits, reference } => {
            let org = chosen(&store, &org).await?;
            let fresh = store.grant(org, credits, &reference).await?;
            let balance = store.balance(org).await?;
            let what = if fresh { "granted" } else { "was granted before under this reference" };
            output::line(format_args!(
                "{credits} {what}; {org} has {} posted, {} held",
                balance.posted, balance.held
            ))?;
        }
        AdminCommand::Ledger(LedgerCommand::Audit { json }) => {
            let audit = store.audit().await?;
            if json {
                output::json(&AuditReport { ok: audit.ok(), audit: &audit })?;
            } else {
                print_audit(&audit)?;
            }
            return Ok(if audit.ok() { Outcome::Done } else { Outcome::FoundFault });
        }
    }
    Ok(Outcome::Done)
}

#[derive(serde::Serialize)]
struct AuditReport<'a> {
    ok: bool,
    #[serde(flatten)]
    audit: &'a Audit,
}

fn print_audit(audit: &Audit) -> Result<()> {
    let Audit { orgs, renders, entries, violations } = audit;
    for violation in violations {
        output::line(format_args!("{:?}: {}", violation.invariant, violation.detail))?;
    }
    let verdict = if audit.ok() {
        "the books are right".to_owned()
    } else {
        format!("{} violations", violations.len())
    };
    let checks = Invariant::ALL.len();
    output::line(format_args!(
        "{orgs} orgs, {renders} renders, {entries} entries, {checks} invariants: {verdict}"
    ))?;
    Ok(())
}

/// The org that was named, or the only one.
async fn chosen(store: &SqliteStore, choice: &OrgChoice) -> Result<OrgId> {
    let orgs = store.orgs().await?;
    match (choice.org, orgs.as_slice()) {
        (Some(id), _) if orgs.iter().any(|org| org.id == id) => Ok(id),
        (Some(id), _) => bail!("there is no org {id}: `kraftr admin org list` shows them"),
        (None, [only]) => Ok(only.id),
        (None, []) => bail!("there is no org yet: `kraftr admin org create NAME` makes one"),
        (None, _) => {
            bail!("there are {} orgs, name one with --org: `kraftr admin org list` shows them", orgs.len())
        }
    }
}

async fn list_orgs(store: &SqliteStore) -> Result<()> {
    let mut rows = vec![["ORG", "POSTED", "HELD", "CREATED", "NAME"].map(str::to_owned).to_vec()];
    for org in store.orgs().await? {
        let balance = store.balance(org.id).await.with_context(|| format!("the balance of {}", org.id))?;
        rows.push(vec![
            org.id.to_string(),
            balance.posted.to_string(),
            balance.held.to_string(),
            org.created_at.to_string(),
            org.name,
        ]);
    }
    output::table(&rows)?;
    Ok(())
}

async fn list_keys(store: &SqliteStore, org: OrgId) -> Result<()> {
    let mut rows = vec![["KEY", "CREATED", "REVOKED", "LABEL"].map(str::to_owned).to_vec()];
    for key in store.keys(org).await? {
        let revoked = key.revoked_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        rows.push(vec![key.id.to_string(), key.created_at.to_string(), revoked, key.label]);
    }
    output::table(&rows)?;
    Ok(())
}

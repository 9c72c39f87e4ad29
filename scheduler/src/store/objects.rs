//! Which objects rows refer to, and which objects are ours at all.

use kraftr_protocol::message::Held;
use kraftr_protocol::{AssetId, Epoch, Lane, OrgId, RenderId};
use uuid::Uuid;

/// What an object's key says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectName {
    /// An uploaded picture.
    Asset(AssetId),
    /// What a claim of a render delivers.
    Artifact(Held),
}

impl ObjectName {
    /// Reads a key; `None` when it is none of ours.
    pub fn parse(key: &str) -> Option<Self> {
        let mut parts = key.split('/');
        let (folder, owner, rest) = (parts.next()?, parts.next()?, parts.next()?);
        match (folder, parts.next(), parts.next()) {
            ("assets", None, None) => {
                owner.parse::<OrgId>().ok()?;
                Some(Self::Asset(rest.strip_suffix(".png")?.parse().ok()?))
            }
            ("artifacts", Some(_), None) => {
                let (render, epoch) = (owner.parse::<RenderId>().ok()?, rest.parse().ok()?);
                Some(Self::Artifact(Held { render, epoch: Epoch(epoch) }))
            }
            _ => None,
        }
    }
}

/// The key of an uploaded picture.
pub fn asset_key(org: OrgId, id: AssetId) -> String {
    format!("assets/{org}/{id}.png")
}

/// Which rows to list the objects of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// Uploaded pictures.
    Assets,
    /// Delivered pictures.
    Artifacts,
}

/// An object that a row refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow {
    /// The row's id.
    pub id: Uuid,
    /// Where the object is.
    pub key: String,
    /// The length that it has.
    pub bytes: u64,
}

/// What is in flight in a lane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneLoad {
    /// The lane.
    pub lane: Lane,
    /// Renders whose job message is on its way.
    pub dispatched: u32,
    /// Renders that a worker holds.
    pub running: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::artifact_key;

    #[test]
    fn only_our_own_keys_are_read() {
        let (org, asset) = (OrgId(Uuid::from_u128(1)), AssetId(Uuid::from_u128(2)));
        let held = Held { render: RenderId(Uuid::from_u128(3)), epoch: Epoch(4) };
        assert_eq!(ObjectName::parse(&asset_key(org, asset)), Some(ObjectName::Asset(asset)));
        let key = artifact_key(held, 1, "image/png");
        assert_eq!(ObjectName::parse(&key), Some(ObjectName::Artifact(held)));
        for foreign in
            ["", "assets", "assets/x/y.png", "backup.sql", &format!("{key}/more"), &format!("old/{key}")]
        {
            assert_eq!(ObjectName::parse(foreign), None, "{foreign}");
        }
    }
}

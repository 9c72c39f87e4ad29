//! Where weights are pulled from: the variables of the tools that already keep these addresses and secrets, so that
//! nobody has to say them twice.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use kraftr_worker::pull::PullSettings;
use kraftr_worker::pull::hub::{ENDPOINT, HubSettings};
use kraftr_worker::pull::s3::{S3Credentials, S3Settings};

/// What `kraftr model pull --help` says about them.
pub const HELP: &str = "\
Variables, those of the hub's and Amazon's own tools:
  HF_TOKEN, HF_TOKEN_PATH    who we are to the hub [default: the file token in HF_HOME]
  HF_ENDPOINT                a mirror of the hub
  HF_HOME, HF_HUB_CACHE      the hub tools' cache: what lies there is not fetched again [default: ~/.cache/huggingface]
  HF_HUB_OFFLINE             1: use that cache only
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN    for s3://; without them objects must be public
  AWS_REGION, AWS_ENDPOINT_URL_S3                                where the bucket is
  HTTPS_PROXY, NO_PROXY      the way out";

/// The settings that these variables make.
pub fn settings(environment: &[(OsString, OsString)], from: Option<PathBuf>) -> PullSettings {
    let variable = |name: &str| {
        let found = environment.iter().find(|(other, value)| other == name && !value.is_empty());
        found.map(|(_, value)| value.to_string_lossy().into_owned())
    };
    let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")));
        cache.map(|cache| cache.join("huggingface"))
    });
    let token = variable("HF_TOKEN").or_else(|| {
        let named = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let path = named.or_else(|| home.as_ref().map(|home| home.join("token")))?;
        fs::read_to_string(path).ok()
    });
    let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
    let is_true = |text: String| ["1", "on", "yes", "true"].contains(&text.to_ascii_lowercase().as_str());
    let credentials = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
    PullSettings {
        hub: HubSettings {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            cache: variable("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home?.join("hub"))),
            offline: variable("HF_HUB_OFFLINE").is_some_and(is_true),
        },
        s3: S3Settings {
            endpoint: variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")),
            region: variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")),
            credentials: credentials.map(|(id, secret)| S3Credentials {
                id,
                secret,
                session_token: variable("AWS_SESSION_TOKEN"),
            }),
        },
        from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> PullSettings {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        settings(&variables, None)
    }

    #[test]
    fn nothing_set_is_the_hub_itself() {
        let settings = read(&[]);
        assert_eq!(settings.hub.endpoint, ENDPOINT);
        assert!(settings.hub.token.is_none() && settings.hub.cache.is_none() && !settings.hub.offline);
        assert!(settings.s3.credentials.is_none());
        let settings =
            read(&[("HF_HUB_OFFLINE", "0"), ("HF_TOKEN", ""), ("AWS_ACCESS_KEY_ID", "half of it")]);
        assert!(settings.hub.token.is_none() && !settings.hub.offline && settings.s3.credentials.is_none());
    }

    #[test]
    fn the_hubs_tools_and_ours_agree_on_where_things_are() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "hf_from_file\n").unwrap();
        let path = home.path().to_str().unwrap();
        let settings =
            read(&[("HF_HOME", path), ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "True")]);
        assert_eq!(settings.hub.token.as_deref(), Some("hf_from_file"));
        assert_eq!(settings.hub.cache, Some(home.path().join("hub")));
        assert_eq!(settings.hub.endpoint, "http://mirror");
        assert!(settings.hub.offline);
        let settings = read(&[("HOME", "/h"), ("HF_TOKEN", "hf_a")]);
        assert_eq!(settings.hub.cache, Some("/h/.cache/huggingface/hub".into()));
        assert_eq!(settings.hub.token.as_deref(), Some("hf_a"));
    }
}

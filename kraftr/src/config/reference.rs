//! The configuration's reference, as docs/config.md holds it.

use std::fmt::Write as _;

use super::concerns::SECTIONS;
use super::field::{Field, Role};

const HEAD: &str = "\
# Configuration

This page is printed by `kraftr config reference`; a test keeps it current.

Every value can stand in a TOML file, in an environment variable or, where one is named, in a flag. Later ones win:

    file (--config FILE, else KRAFTR_CONFIG, else ./kraftr.toml where it exists)  <  KRAFTR_…  <  flags

A variable's name is made from its key: `http.listen` is `KRAFTR_HTTP_LISTEN`. An empty variable counts as not set. Keys and
`KRAFTR_` variables that do not exist are refused. Nothing starts with a mistake: all of them are listed at once, each with
its file and line, variable or flag.

```sh
kraftr config check --role scheduler    # exit code 0: it could start; 1: it lists what is wrong
kraftr config show --role worker        # every value and where it comes from
```

A **secret** can also stand in a file of its own, as container platforms mount them: `url_file = \"…\"` (relative to the TOML file) or
`KRAFTR_DATABASE_URL_FILE`. Secrets are never printed and never logged; of a URL only the password is hidden.

A role reads only what is marked as its own. A worker that finds database or bucket credentials in its environment does not even
look at them, and `kraftr config check --role worker` says that they are there.

```toml
[database]
url_file = \"database-url\"

[amqp]
url = \"amqp://kraftr@broker.internal:5672/kraftr\"

[s3]
endpoint = \"https://objects.internal\"
bucket = \"kraftr\"
access_key_id_file = \"s3-id\"
secret_access_key_file = \"s3-secret\"
path_style = true
```
";

/// docs/config.md.
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for (about, fields) in SECTIONS {
        let Some(first) = fields.first() else { continue };
        let title = if first.section.is_empty() { "Top level" } else { &format!("[{}]", first.section) };
        let roles: Vec<String> = first.roles.iter().map(Role::to_string).collect();
        // Writing to a string cannot fail.
        write!(text, "\n## {title}\n\n{} Read by {}.\n\n", about.trim(), roles.join(", ")).ok();
        text.push_str("| key | variable, flag | value | default |\n| --- | --- | --- | --- |\n");
        for field in *fields {
            row(&mut text, field);
        }
        text.push('\n');
        for field in *fields {
            writeln!(text, "- `{}`: {}", field.name, field.help.trim()).ok();
        }
    }
    text
}

fn row(text: &mut String, field: &Field) {
    let flag = field.flag.map_or_else(String::new, |flag| format!(", `--{flag}`"));
    let secret = if field.can_be_a_file() { " (secret)" } else { "" };
    let default = match field.default {
        Some(default) => format!("`{default}`"),
        None if field.required => "required".to_owned(),
        None => "none".to_owned(),
    };
    let (name, variable, expected) = (field.name, field.variable(), (field.expected)());
    let expected = expected.replace('|', "\\|");
    writeln!(text, "| `{name}` | `{variable}`{flag} | {expected}{secret} | {default} |").ok();
}

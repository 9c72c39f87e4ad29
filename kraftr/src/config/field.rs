//! A field of the configuration: declared once, known to the parser, the flags, `config show` and the documentation.

use std::fmt;

use super::settings::Settings;
use super::value::{Form, Secrecy, Setting};

/// Who reads a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// `kraftr scheduler`.
    Scheduler,
    /// `kraftr worker`.
    Worker,
    /// `kraftr admin`: nothing is required, and what a command needs it asks for itself.
    #[value(skip)]
    Admin,
    /// `kraftr model`, `kraftr render` and `kraftr dev`: nothing is required.
    #[value(skip)]
    Model,
    /// `kraftr verify`: nothing is required.
    #[value(skip)]
    Verify,
    /// `kraftr watermark`: nothing is required.
    #[value(skip)]
    Watermark,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
            Self::Admin => "admin",
            Self::Model => "model",
            Self::Verify => "verify",
            Self::Watermark => "watermark",
        })
    }
}

/// A field's declaration.
#[derive(Debug)]
pub struct Field {
    /// Its table in the TOML file; empty at the top level.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// What it is, in a sentence or two.
    pub help: &'static str,
    /// The value when nobody gives one.
    pub default: Option<&'static str>,
    /// The flag that gives it, without dashes.
    pub flag: Option<&'static str>,
    /// True when it must be given.
    pub required: bool,
    /// Who reads it.
    pub roles: &'static [Role],
    /// How TOML writes it.
    pub form: Form,
    /// Whether it may be shown.
    pub secrecy: Secrecy,
    /// Stands for a value in help texts.
    pub placeholder: &'static str,
    /// What is right, to follow "must be".
    pub expected: fn() -> String,
    /// Reads a value and shows it as it may be shown; `None` when it is not what is expected.
    pub show: fn(&str) -> Option<String>,
}

impl Field {
    /// `section.name`, as the mistakes and the documentation call it.
    pub fn key(&self) -> String {
        if self.section.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.section, self.name) }
    }

    /// The environment variable that gives it: made from the key, so that nobody has to look it up.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key().replace('.', "_").to_ascii_uppercase())
    }

    /// True when it can come from a file of its own.
    pub fn can_be_a_file(&self) -> bool {
        self.secrecy == Secrecy::Secret
    }

    /// True when that role reads it.
    pub fn is_read_by(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// What every variable of ours begins with.
pub const PREFIX: &str = "KRAFTR_";

/// Fields that belong together, read into one struct.
pub trait Concern: Sized {
    /// What they are about, in one sentence.
    const ABOUT: &'static str;
    /// Who reads them.
    const ROLES: &'static [Role];
    /// The fields, in the order in which they are documented.
    const FIELDS: &'static [Field];

    /// Reads them; every mistake is noted in `settings`, and then there is nothing to return.
    fn read(settings: &mut Settings) -> Option<Self>;
}

/// What a declaration says about a value of type `T`.
pub(crate) const fn field<T: Setting>(
    place: (&'static str, &'static str),
    help: &'static str,
    (default, flag): (Option<&'static str>, Option<&'static str>),
    required: bool,
    roles: &'static [Role],
) -> Field {
    Field {
        section: place.0,
        name: place.1,
        help,
        default,
        flag,
        required,
        roles,
        form: T::FORM,
        secrecy: T::SECRECY,
        placeholder: T::PLACEHOLDER,
        expected: T::expected,
        show: |text| T::parse(text).map(|value| value.show()),
    }
}

/// `pub struct Name = "section", read by [Role …] { /// help \n field: Type = "default", flag "name"; … }`.
///
/// A field without a default must be given, unless it is an `Option`.
macro_rules! concern {
    (
        #[doc = $about:literal]
        pub struct $Name:ident = $section:literal, read by [$($role:ident)+] {
            $(
                $(#[doc = $help:literal])+
                $field:ident: $Type:ty $(= $default:literal)? $(, flag $flag:literal)?;
            )+
        }
    ) => {
        #[doc = $about]
        #[derive(Debug, Clone)]
        pub struct $Name {
            $($(#[doc = $help])+ pub $field: $Type,)+
        }

        impl $crate::config::field::Concern for $Name {
            const ABOUT: &'static str = $about;
            const ROLES: &'static [$crate::config::field::Role] =
                &[$($crate::config::field::Role::$role),+];
            const FIELDS: &'static [$crate::config::field::Field] = &[$(
                $crate::config::field::field::<$Type>(
                    ($section, stringify!($field)),
                    concat!($($help),+),
                    (concern!(@option $($default)?), concern!(@option $($flag)?)),
                    concern!(@required $Type $(= $default)?),
                    Self::ROLES,
                ),
            )+];

            fn read(settings: &mut $crate::config::settings::Settings) -> Option<Self> {
                let mut fields = Self::FIELDS.iter();
                // All are read before any is missed: every mistake is to be found.
                $(let $field = settings.value::<$Type>(fields.next().expect("one for each"));)+
                Some(Self { $($field: $field?,)+ })
            }
        }
    };
    (@option) => { None };
    (@option $value:literal) => { Some($value) };
    (@required $Type:ty = $default:literal) => { false };
    (@required $Type:ty) => { !<$Type as $crate::config::value::Setting>::OPTIONAL };
}

pub(crate) use concern;

//! Conditions of routes.

use crate::geo::Country;
use crate::net::{NetSet, canonical, parse_net};
use crate::pattern::{Limits, PatternError, Search};
use crate::query;
use crate::request::{Facts, cookie, header};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::IpAddr;

/// Every variable without a name of its own; `arg_NAME`, `http_NAME` and `cookie_NAME` come on top.
pub const VARIABLES: [&str; 8] =
    ["uri", "request_uri", "args", "host", "method", "scheme", "remote_addr", "country"];

/// Every operator.
pub const OPERATORS: [&str; 10] = [
    "is_equal",
    "is_not_equal",
    "starts_with",
    "does_not_start_with",
    "ends_with",
    "matches",
    "does_not_match",
    "exists",
    "does_not_exist",
    "in",
];

/// A condition's value as configured.
#[derive(Debug, Clone, Copy)]
pub enum Operand<'a> {
    /// No value.
    None,
    /// One string.
    Text(&'a str),
    /// A list of strings.
    List(&'a [String]),
}

/// Why a condition was refused.
#[derive(Debug)]
pub enum ConditionError {
    /// No such variable.
    Variable,
    /// No such operator.
    Operator,
    /// The operator takes another kind of value.
    Value {
        /// What it takes.
        takes: &'static str,
    },
    /// `remote_addr` compared with something that is no address or network.
    Address(String),
    /// `country` compared with something that is no alpha-2 code.
    Country(String),
    /// The pattern of `matches` was refused.
    Pattern(PatternError),
}

impl core::fmt::Display for ConditionError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Variable => {
                write!(
                    f,
                    "unknown variable; known: {}, arg_NAME, http_NAME, cookie_NAME",
                    VARIABLES.join(", ")
                )
            }
            Self::Operator => write!(f, "unknown operator; known: {}", OPERATORS.join(", ")),
            Self::Value { takes } => write!(f, "this operator takes {takes}"),
            Self::Address(text) => write!(f, "`{text}` is neither an IP address nor a CIDR"),
            Self::Country(text) => write!(f, "`{text}` is not an ISO 3166-1 alpha-2 code"),
            Self::Pattern(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ConditionError {}

#[derive(Debug)]
enum Variable {
    Uri,
    RequestUri,
    Args,
    Arg(Box<str>),
    Host,
    Method,
    Scheme,
    RemoteAddr,
    Http(Box<str>),
    Cookie(Box<str>),
    Country,
}

impl Variable {
    fn new(name: &str) -> Option<Self> {
        let of = |prefix: &str| name.strip_prefix(prefix).filter(|rest| !rest.is_empty());
        Some(match name {
            "uri" => Self::Uri,
            "request_uri" => Self::RequestUri,
            "args" => Self::Args,
            "host" => Self::Host,
            "method" => Self::Method,
            "scheme" => Self::Scheme,
            "remote_addr" => Self::RemoteAddr,
            "country" => Self::Country,
            _ => {
                if let Some(arg) = of("arg_") {
                    Self::Arg(arg.into())
                } else if let Some(field) = of("http_") {
                    Self::Http(field.to_ascii_lowercase().replace('_', "-").into())
                } else {
                    Self::Cookie(of("cookie_")?.into())
                }
            }
        })
    }

    /// Whether values are compared without regard to ASCII case, because the thing itself has none.
    fn ignores_case(&self) -> bool {
        matches!(self, Self::Host | Self::Scheme | Self::Country)
    }

    /// Hands the value to `look`; `None` where the request has no such thing.
    fn look<R>(&self, facts: &Facts<'_, '_>, look: impl FnOnce(Option<&[u8]>) -> R) -> R {
        let request = facts.request;
        let query = facts.target.query;
        match self {
            Self::Uri => look(Some(facts.decoded_path)),
            Self::RequestUri => look(Some(facts.target.origin_form)),
            Self::Args => look(query),
            Self::Arg(name) => look(query.and_then(|query| query::first(query, name))),
            Self::Host => look(Some(facts.host()).filter(|host| !host.is_empty())),
            Self::Method => look(Some(request.method.as_bytes())),
            Self::Scheme => look(Some(request.scheme.as_bytes())),
            Self::RemoteAddr => {
                let mut text = AddressText { room: [0; ADDRESS_TEXT], len: 0 };
                // An address always fits the room.
                let _fits = write!(text, "{}", facts.client());
                look(Some(text.as_bytes()))
            }
            Self::Http(name) => look(header(request.headers, name).first()),
            Self::Cookie(name) => look(cookie(request.headers, name).first()),
            Self::Country => look(facts.country().as_ref().map(|c| c.as_str().as_bytes())),
        }
    }
}

#[derive(Debug)]
enum Test {
    Equal(Box<[u8]>),
    Address(IpAddr),
    StartsWith(Box<[u8]>),
    EndsWith(Box<[u8]>),
    Matches(Box<Search>),
    Exists,
    OneOf(Vec<Box<[u8]>>),
    InNets(NetSet),
}

/// One comparison of a variable of the request.
#[derive(Debug)]
pub struct Condition {
    text: Box<str>,
    variable: Variable,
    negated: bool,
    test: Test,
}

impl Condition {
    /// Prepares a condition.
    ///
    /// # Errors
    /// A [`ConditionError`] that says what is wrong and what would be right.
    pub fn new(variable: &str, operator: &str, operand: Operand<'_>) -> Result<Self, ConditionError> {
        let text = match operand {
            Operand::None => format!("{variable} {operator}"),
            Operand::Text(value) => format!("{variable} {operator} {value:?}"),
            Operand::List(list) => format!("{variable} {operator} {list:?}"),
        };
        let variable = Variable::new(variable).ok_or(ConditionError::Variable)?;
        if !OPERATORS.contains(&operator) {
            return Err(ConditionError::Operator);
        }
        let (negated, operator) = match operator {
            "is_not_equal" => (true, "is_equal"),
            "does_not_start_with" => (true, "starts_with"),
            "does_not_match" => (true, "matches"),
            "does_not_exist" => (true, "exists"),
            other => (false, other),
        };
        let test = Test::new(&variable, operator, operand)?;
        Ok(Self { text: text.into(), variable, negated, test })
    }

    /// A condition on a variable that the request lacks holds only if it is a negated one.
    pub(crate) fn holds(&self, facts: &Facts<'_, '_>) -> bool {
        // Most conditions are of this kind.
        if let (Variable::Uri, Test::StartsWith(start)) = (&self.variable, &self.test) {
            return facts.decoded_path.starts_with(start) != self.negated;
        }
        if let Test::InNets(nets) = &self.test {
            return nets.contains(&facts.request.client);
        }
        if let Test::Address(address) = &self.test {
            return (facts.client() == *address) != self.negated;
        }
        let ignore_case = self.variable.ignores_case();
        let holds = self.variable.look(facts, |value| {
            let Some(value) = value else { return false };
            let same = |a: &[u8], b: &[u8]| if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b };
            match &self.test {
                Test::Equal(expected) => same(value, expected),
                Test::StartsWith(start) => value.get(..start.len()).is_some_and(|v| same(v, start)),
                Test::EndsWith(end) => {
                    value.len().checked_sub(end.len()).is_some_and(|at| same(&value[at..], end))
                }
                Test::Matches(pattern) => facts.as_text(value, |text| pattern.is_match(text)),
                Test::Exists => true,
                Test::OneOf(list) => list.iter().any(|expected| same(value, expected)),
                Test::Address(_) | Test::InNets(_) => false,
            }
        });
        holds != self.negated
    }

    /// The condition as configured, for explanations.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Test {
    fn new(variable: &Variable, operator: &str, operand: Operand<'_>) -> Result<Self, ConditionError> {
        match (operator, operand) {
            ("exists", Operand::None) => Ok(Self::Exists),
            ("exists", _) => Err(ConditionError::Value { takes: "no value" }),
            ("in", Operand::List(list)) => Self::one_of(variable, list),
            ("in", _) => Err(ConditionError::Value { takes: "a list of strings" }),
            (_, Operand::Text(text)) => Self::text(variable, operator, text),
            _ => Err(ConditionError::Value { takes: "one string" }),
        }
    }

    fn text(variable: &Variable, operator: &str, text: &str) -> Result<Self, ConditionError> {
        let bytes = || text.as_bytes().into();
        Ok(match (variable, operator) {
            (Variable::RemoteAddr, "is_equal") => {
                let address: IpAddr = text.parse().map_err(|_| ConditionError::Address(text.to_owned()))?;
                Self::Address(canonical(address))
            }
            (Variable::Country, "is_equal") => {
                Country::new(text).ok_or_else(|| ConditionError::Country(text.to_owned()))?;
                Self::Equal(bytes())
            }
            (_, "is_equal") => Self::Equal(bytes()),
            (_, "starts_with") => Self::StartsWith(bytes()),
            (_, "ends_with") => Self::EndsWith(bytes()),
            _ => {
                let search =
                    |text: &str| Search::new(text, &Limits::default()).map_err(ConditionError::Pattern);
                // The bare text must be a pattern too: a stray `)` could close the group that is put around it.
                let mut pattern = search(text)?;
                if variable.ignores_case() {
                    pattern = search(&format!("(?i:{text})"))?;
                }
                Self::Matches(Box::new(pattern))
            }
        })
    }

    fn one_of(variable: &Variable, list: &[String]) -> Result<Self, ConditionError> {
        match variable {
            Variable::RemoteAddr => {
                let net =
                    |text: &String| parse_net(text).ok_or_else(|| ConditionError::Address(text.clone()));
                let nets: Vec<_> = list.iter().map(net).collect::<Result<_, _>>()?;
                Ok(Self::InNets(NetSet::new(nets)))
            }
            Variable::Country => {
                if let Some(bad) = list.iter().find(|code| Country::new(code).is_none()) {
                    return Err(ConditionError::Country(bad.clone()));
                }
                Ok(Self::OneOf(list.iter().map(|v| v.as_bytes().into()).collect()))
            }
            _ => Ok(Self::OneOf(list.iter().map(|v| v.as_bytes().into()).collect())),
        }
    }
}

/// All of the groups must hold; of a group, any condition.
#[derive(Debug, Default)]
pub struct When {
    groups: Vec<Vec<Condition>>,
}

impl When {
    /// A conjunction of or-groups. A plain condition is a group of one; no groups at all hold always.
    #[must_use]
    pub fn new(groups: Vec<Vec<Condition>>) -> Self {
        Self { groups }
    }

    pub(crate) fn holds(&self, facts: &Facts<'_, '_>) -> bool {
        self.first_failing(facts).is_none()
    }

    /// What every path starts with for which the conditions hold: the longest such text that one of them alone demands.
    pub(crate) fn start(&self) -> Option<&[u8]> {
        let demanded = self.groups.iter().filter_map(|group| {
            let [Condition { variable: Variable::Uri, negated: false, test, .. }] = &group[..] else {
                return None;
            };
            match test {
                Test::StartsWith(start) | Test::Equal(start) => Some(&**start),
                _ => None,
            }
        });
        demanded.max_by_key(|start| start.len())
    }

    /// The first or-group of which nothing holds, for explanations.
    pub(crate) fn first_failing(&self, facts: &Facts<'_, '_>) -> Option<&[Condition]> {
        self.groups
            .iter()
            .find(|group| !group.iter().any(|condition| condition.holds(facts)))
            .map(Vec::as_slice)
    }
}

/// Length of the longest textual address: IPv6 with an IPv4 tail.
const ADDRESS_TEXT: usize = 45;

/// Room for a textual address, so that none is allocated.
struct AddressText {
    room: [u8; ADDRESS_TEXT],
    len: usize,
}

impl AddressText {
    fn as_bytes(&self) -> &[u8] {
        &self.room[..self.len]
    }
}

impl core::fmt::Write for AddressText {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.len + text.len();
        let room = self.room.get_mut(self.len..end).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

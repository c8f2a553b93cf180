//! `[[route]]`.

use super::listeners::{Upstream, host_and_port};
use super::problem::{Place, advice, shown};
use super::reader::{Section, Value};
use super::secrets::{TokenSecrets, token_settings};
use http::{HeaderName, HeaderValue};
use std::collections::BTreeMap;
use validator_core::limits::{DEFAULT_MAX_TTL, MAX_INTEGER};
use validator_core::pattern::{Limits, PathPattern, Search};
use validator_core::{
    Algorithm, Bindings, Check, Condition, ConditionError, ContentJwt, Fallback, OPERATORS, OnDeny, Operand,
    Reason, Route, SecureToken, Statuses, Template, TokenPlace, VARIABLES, When,
};

/// Longest name of a route, in bytes.
const LONGEST_NAME: usize = 64;

/// Headers that describe the connection or where a message ends. They are the server's business.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

/// What a route needs besides its [`Route`].
#[derive(Debug, Clone, Default)]
pub struct RouteSettings {
    /// Headers of every refusal.
    pub deny_headers: Vec<(HeaderName, HeaderValue)>,
}

/// What routes refer to.
pub(super) struct Context<'c> {
    /// What `secret` names.
    pub(super) secure_tokens: BTreeMap<&'c str, TokenSecrets>,
    /// Whether there is a secret for Content JWTs.
    pub(super) any_key: bool,
    /// Whether a database tells countries.
    pub(super) countries_known: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ContentJwt,
    SecureToken,
    Allow,
    Deny,
}

const KINDS: [(&str, Kind); 4] = [
    ("content-jwt", Kind::ContentJwt),
    ("secure-token", Kind::SecureToken),
    ("allow", Kind::Allow),
    ("deny", Kind::Deny),
];

/// The routes in order, and their settings in the same order.
pub(super) fn routes(
    root: &mut Section<'_>,
    fallback: Fallback,
    context: &Context<'_>,
) -> (Vec<Route>, Vec<RouteSettings>) {
    let mut routes = Vec::new();
    let mut settings = Vec::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    // The key of the first route that always matches, and whether the ones after it have been mentioned.
    let mut always: Option<String> = None;
    let mut told = false;
    let route_list = root.take("route");
    let any = route_list.is_some();
    for (index, section) in route_list.map(|value| value.tables()).unwrap_or_default().into_iter().enumerate()
    {
        if let Some(always) = always.as_ref().filter(|_| !told) {
            section
                .place
                .warn(format!("never reached: {always} has no `when` and decides every request before"));
            told = true;
        }
        let place = section.place.clone();
        let read = route(section, index, context);
        let name_place = read.name_place.unwrap_or_else(|| place.clone());
        if let Some(earlier) = names.insert(read.name.clone(), place.key.clone()) {
            name_place
                .problem(format!("{} is already the name of {earlier}; use another", shown(&read.name)));
        }
        if read.matches_always && always.is_none() {
            always = Some(place.key);
        }
        settings.push(RouteSettings { deny_headers: read.deny_headers });
        if let Some(check) = read.check {
            routes.push(Route {
                name: read.name.into(),
                when: read.when,
                check,
                on_deny: read.on_deny,
                statuses: read.statuses,
            });
        }
    }
    if always.is_none() {
        match fallback {
            Fallback::Allow => {
                root.place.warn("default = \"allow\": a request that no route matches passes unchecked")
            }
            Fallback::Deny if !any => root.place.warn("there is no [[route]], so every request is refused"),
            Fallback::Deny => {}
        }
    }
    (routes, settings)
}

/// What [`route`] has read.
struct Read<'t> {
    name: String,
    name_place: Option<Place<'t>>,
    when: When,
    matches_always: bool,
    /// `None` when there was a problem with it.
    check: Option<Check>,
    on_deny: OnDeny,
    statuses: Statuses,
    deny_headers: Vec<(HeaderName, HeaderValue)>,
}

fn route<'t>(mut section: Section<'t>, index: usize, context: &Context<'_>) -> Read<'t> {
    let given = section.take("name");
    let name = given.as_ref().and_then(name).map_or_else(|| format!("route-{}", index + 1), str::to_owned);
    let conditions = section.take("when");
    let groups = conditions.as_ref().map(|value| value.list().unwrap_or_default());
    let matches_always =
        groups.as_ref().is_none_or(Vec::is_empty) && conditions.as_ref().is_none_or(Value::is_list);
    let groups = groups.unwrap_or_default().iter().filter_map(|value| group(value, context)).collect();
    let on_deny = section.take("on_deny").and_then(|value| on_deny(&value)).unwrap_or(OnDeny::Status);
    let statuses = section.section("status").map(|section| statuses(&section)).unwrap_or_default();
    let deny_headers = section.section("deny_headers").map(|section| headers(&section)).unwrap_or_default();

    let check = section.require("check", "write one of content-jwt, secure-token, allow, deny");
    let kind = check.as_ref().and_then(|value| value.word(&KINDS));
    if let (Some(value), Some(Kind::ContentJwt), false) = (&check, kind, context.any_key) {
        value.place.problem("content-jwt needs a key; add a [secrets.NAME] with its slots");
    }
    // The keys of a check that is not known yet are read without demanding any.
    let jwt = match kind {
        None | Some(Kind::ContentJwt) => content_jwt(&mut section, kind.is_some()),
        Some(_) => {
            for key in
                ["token", "path_validation", "monitor_mode", "monitor_claims", "max_lifetime", "geo_unknown"]
            {
                section.refuse(key, "belongs to check = \"content-jwt\"; remove it");
            }
            None
        }
    };
    let secure_token = match kind {
        None | Some(Kind::SecureToken) => secure_token(&mut section, kind.is_some(), context),
        Some(_) => {
            for key in ["secret", "algorithm", "max_ttl"] {
                section.refuse(key, "belongs to check = \"secure-token\"; remove it");
            }
            None
        }
    };
    section.finish();
    let check = match kind {
        None => None,
        Some(Kind::ContentJwt) => jwt.map(Check::ContentJwt),
        Some(Kind::SecureToken) => secure_token.map(Check::SecureToken),
        Some(Kind::Allow) => Some(Check::Allow),
        Some(Kind::Deny) => Some(Check::Deny),
    };
    Read {
        name,
        name_place: given.map(|value| value.place),
        when: When::new(groups),
        matches_always,
        check,
        on_deny,
        statuses,
        deny_headers,
    }
}

fn name<'t>(value: &Value<'t>) -> Option<&'t str> {
    let name = value.text()?;
    if name.len() > LONGEST_NAME || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
        value.place.problem(format!("a name has 1 to {LONGEST_NAME} of the characters A-Z a-z 0-9 _ . -"));
        return None;
    }
    Some(name)
}

/// A condition, or a list of alternatives.
fn group(value: &Value<'_>, context: &Context<'_>) -> Option<Vec<Condition>> {
    if !value.is_list() {
        let section = value.section_like("a condition or a list of conditions")?;
        return Some(vec![condition(section, context)?]);
    }
    let list = value.list()?;
    if list.is_empty() {
        value.place.problem("a list of alternatives needs at least one; this one never holds");
    }
    Some(list.iter().filter_map(Value::section).filter_map(|section| condition(section, context)).collect())
}

fn condition(mut section: Section<'_>, context: &Context<'_>) -> Option<Condition> {
    let variable = section.require("variable", "write for example variable = \"uri\"");
    let operator = section.require("operator", "write for example operator = \"starts_with\"");
    let operand = section.take("value");
    let place = section.place.clone();
    section.finish();

    let variable_name = variable.as_ref().and_then(|value| {
        let name = value.string()?;
        let prefixed =
            ["arg_", "http_", "cookie_"].iter().any(|&p| name.len() > p.len() && name.starts_with(p));
        if !prefixed && !VARIABLES.contains(&name) {
            let known = VARIABLES.into_iter().chain(["arg_NAME", "http_NAME", "cookie_NAME"]);
            value.place.problem(format!(
                "unknown variable {}; {}",
                shown(name),
                advice(name, known, "variables")
            ));
            return None;
        }
        if name == "country" && !context.countries_known {
            value.place.problem("country needs a geo database; set city or country in [geo]");
        }
        Some(name)
    });
    let operator_name = operator.as_ref().and_then(|value| {
        let name = value.string()?;
        if !OPERATORS.contains(&name) {
            let advice = advice(name, OPERATORS, "operators");
            value.place.problem(format!("unknown operator {}; {advice}", shown(name)));
            return None;
        }
        Some(name)
    });
    // An operand of a wrong type is reported whatever the others are.
    let list: Vec<String>;
    let operand_place = operand.as_ref().map_or(place, |value| value.place.clone());
    let operand = match &operand {
        None => Operand::None,
        Some(value) if value.is_list() => {
            let elements = value.list()?;
            let strings: Vec<_> = elements.iter().filter_map(Value::string).map(str::to_owned).collect();
            if strings.len() < elements.len() {
                return None;
            }
            list = strings;
            Operand::List(&list)
        }
        Some(value) if value.is_string() => Operand::Text(value.string()?),
        Some(value) => return value.wrong_type("a string or a list of strings"),
    };
    if let (Some("matches" | "does_not_match"), Operand::Text(text)) = (operator_name, operand)
        && let Err(error) = Search::new(text, &Limits::default())
    {
        // The condition may put the pattern into a group that ignores case. What is wrong with it has to be found
        // before: `a)|(b` is a pattern within a group.
        operand_place.problem(pattern_problem(&error.to_string()));
        return None;
    }
    Condition::new(variable_name?, operator_name?, operand)
        .map_err(|error| {
            let text = match (&error, operand) {
                (ConditionError::Value { .. }, Operand::None) => format!("value is missing; {error}"),
                _ => error.to_string(),
            };
            operand_place.problem(text);
        })
        .ok()
}

fn on_deny(value: &Value<'_>) -> Option<OnDeny> {
    const FORMS: &str = "write \"status\", { redirect = \"https://host/path?return={return}\" } or { forward = \"http://host:port\" }";
    if value.is_string() {
        let text = value.string()?;
        if text != "status" {
            // A URL may contain a password.
            value.place.problem(format!("unknown value; {FORMS}"));
        }
        return Some(OnDeny::Status);
    }
    let mut section = value.section_like("\"status\" or a table")?;
    let (redirect, forward) = (section.take("redirect"), section.take("forward"));
    let on_deny = match (redirect, forward) {
        (Some(target), None) => target.text().and_then(|text| {
            let good = redirect_target(text).map_err(|text| target.place.problem(text));
            good.is_ok().then(|| OnDeny::Redirect(Template::new(text)))
        }),
        (None, Some(target)) => target.text().and_then(|text| {
            let good = Upstream::parse(text).map_err(|text| target.place.problem(text));
            good.is_ok().then(|| OnDeny::Forward(text.into()))
        }),
        (Some(_), Some(target)) => {
            target.place.problem("both redirect and forward are given; remove one");
            None
        }
        (None, None) => {
            section.place.problem(format!("says neither redirect nor forward; {FORMS}"));
            None
        }
    };
    section.finish();
    on_deny
}

/// Whether a redirect may go there. Whatever `{return}` becomes, it must not choose the host.
fn redirect_target(text: &str) -> Result<(), String> {
    if !text.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`|".contains(&b)) {
        return Err("a redirect has printable ASCII characters only, without blanks, \" < > \\ ^ ` |; \
                    percent-encode others"
            .into());
    }
    if text.replace("{return}", "").contains(['{', '}']) {
        return Err("the only placeholder is {return}; percent-encode other braces".into());
    }
    let scheme = ["http://", "https://"]
        .iter()
        .find(|scheme| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    match scheme {
        Some(scheme) => {
            let rest = &text[scheme.len()..];
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            host_and_port(authority).map(|_| ())
        }
        None if text.starts_with("//") => Err("write the scheme of the other host: https://host/path".into()),
        None if text.starts_with('/') => Ok(()),
        None => Err("write http://host/path, https://host/path or a path that starts with /".into()),
    }
}

fn statuses(section: &Section<'_>) -> Statuses {
    let mut statuses = Statuses::default();
    for (name, place, value) in section.entries() {
        let reason = Reason::from_name(name);
        if reason.is_none() {
            let advice = advice(name, Reason::ALL.map(Reason::name), "reasons");
            place.problem(format!("unknown reason; {advice}"));
        }
        if let (Some(reason), Some(status)) = (reason, value.number(&(400..=599))) {
            statuses.set(reason, status);
        }
    }
    statuses
}

fn headers(section: &Section<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (key, place, value) in section.entries() {
        let name = HeaderName::from_bytes(key.as_bytes()).ok();
        match &name {
            None => place.problem("not the name of an HTTP header; it has letters, digits and - only"),
            Some(name) if FRAMING.contains(&name.as_str()) => {
                place.problem("the server sets this header itself; remove it");
            }
            Some(name) if headers.iter().any(|(other, _)| other == name) => {
                place.problem("the header is given twice; remove one");
            }
            Some(_) => {}
        }
        let Some(text) = value.string() else { continue };
        match HeaderValue::from_str(text) {
            Ok(content) => headers.extend(name.map(|name| (name, content))),
            Err(_) => value.place.problem("not a header value; it has printable ASCII characters only"),
        }
    }
    headers
}

/// The keys of a Content JWT route; mandatory ones are only demanded when `demand` is set.
fn content_jwt(section: &mut Section<'_>, demand: bool) -> Option<ContentJwt> {
    let places = match section.take("token") {
        Some(value) => token_places(&value),
        None => Some(vec![TokenPlace::Path]),
    };
    let way_out = "without a pattern a token would open any path; write for example '/(?<cid>[^/]+)/.*'";
    let patterns =
        if demand { section.require("path_validation", way_out) } else { section.take("path_validation") };
    let patterns = patterns.and_then(|value| {
        let list = value.string_or_list()?;
        if list.is_empty() {
            value.place.problem(format!("is empty; {way_out}"));
        }
        Some(list.iter().filter_map(pattern).collect())
    });
    let lets_pass = section.word("monitor_mode", &[("block", false), ("allow", true)]) == Some(true);
    let claims = section.take("monitor_claims");
    // Monitor mode is about `cip`, unless other claims are listed.
    let bindings =
        claims.as_ref().map_or(Bindings { cip: true, ..Bindings::default() }, |value| bindings(value));
    match claims {
        Some(value) if !lets_pass => {
            value.place.warn("has no effect without monitor_mode = \"allow\"; mismatches are refused");
        }
        Some(value) if value.list_len() == Some(0) => {
            value.place.warn("is empty, so monitor_mode = \"allow\" has no effect");
        }
        _ => {}
    }
    let max_lifetime = section.number("max_lifetime", &(1..=MAX_INTEGER));
    let unknown_place_passes = section.word("geo_unknown", &[("deny", false), ("allow", true)]);
    Some(ContentJwt {
        places: places?,
        patterns: patterns?,
        monitored: if lets_pass { bindings } else { Bindings::default() },
        max_lifetime,
        unknown_place_passes: unknown_place_passes.unwrap_or(false),
    })
}

fn pattern(value: &Value<'_>) -> Option<PathPattern> {
    let pattern = PathPattern::new(value.text()?, &Limits::default());
    pattern.map_err(|error| value.place.problem(pattern_problem(&error.to_string()))).ok()
}

/// A syntax error of a pattern is a drawing: the pattern, a caret under it, and then the error. This makes a sentence of
/// it; other errors are sentences already.
fn pattern_problem(error: &str) -> String {
    /// By how much the drawing is indented.
    const INDENT: usize = 4;
    let Some(what) = error.lines().find_map(|line| line.strip_prefix("error: ")) else {
        return error.to_owned();
    };
    // A pattern of several lines is drawn in another way.
    let lines: Vec<&str> = error.lines().collect();
    let caret = if let [_, _, caret, _] = lines[..] { caret.find('^') } else { None };
    match caret.and_then(|at| at.checked_sub(INDENT)) {
        Some(at) => format!("the pattern cannot be read from character {} on: {what}", at + 1),
        None => format!("the pattern cannot be read: {what}"),
    }
}

fn bindings(value: &Value<'_>) -> Bindings {
    let mut bindings = Bindings::default();
    for value in value.list().unwrap_or_default() {
        let Some(claim) = value.string() else { continue };
        if !bindings.insert(claim) {
            let advice = advice(claim, ["cip", "geo", "local", "asn"], "claims");
            value.place.problem(format!("unknown claim {}; {advice}", shown(claim)));
        }
    }
    bindings
}

fn token_places(value: &Value<'_>) -> Option<Vec<TokenPlace>> {
    let list = value.string_or_list()?;
    if list.is_empty() {
        value.place.problem("needs at least one place; write for example \"path\"");
    }
    let mut places = Vec::new();
    for value in list {
        let Some(text) = value.string() else { continue };
        match token_place(text) {
            Err(text) => value.place.problem(text),
            Ok(place) if places.contains(&place) => {
                value.place.problem("the place is listed twice; remove one")
            }
            Ok(place) => places.push(place),
        }
    }
    Some(places)
}

fn token_place(text: &str) -> Result<TokenPlace, String> {
    if text == "path" {
        return Ok(TokenPlace::Path);
    }
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let place = match kind {
        "query" => TokenPlace::Query(name.into()),
        "header" => TokenPlace::Header(name.to_ascii_lowercase().into()),
        "cookie" => TokenPlace::Cookie(name.into()),
        _ => {
            let advice = advice(kind, ["path", "query:NAME", "header:NAME", "cookie:NAME"], "places");
            return Err(format!("unknown place {}; {advice}", shown(text)));
        }
    };
    // The three kinds of names have these characters in common, and none of them has a second spelling.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b)) {
        return Err(format!("write {kind}:NAME with a name of the characters A-Z a-z 0-9 - _ . ~"));
    }
    Ok(place)
}

/// The keys of a Secure Token route; mandatory ones are only demanded when `demand` is set.
fn secure_token(section: &mut Section<'_>, demand: bool, context: &Context<'_>) -> Option<SecureToken> {
    let way_out = "name a [secure_token.NAME]";
    let secret = if demand { section.require("secret", way_out) } else { section.take("secret") };
    let (algorithm, max_ttl) = token_settings(section);
    let secret = secret?;
    let name = secret.string()?;
    let Some(found) = context.secure_tokens.get(name) else {
        // The text is not repeated: it may well be the secret itself instead of its name.
        if context.secure_tokens.is_empty() {
            secret.place.problem("names no [secure_token] table, and there is none; add [secure_token.NAME]");
        } else {
            let advice = advice(name, context.secure_tokens.keys().copied(), "tables");
            secret.place.problem(format!("names no [secure_token] table; {advice}"));
        }
        return None;
    };
    let algorithm: Algorithm = algorithm.unwrap_or(found.algorithm);
    let mut check = SecureToken::new(algorithm, found.prepare(algorithm));
    check.max_ttl = max_ttl.or(found.max_ttl).unwrap_or(DEFAULT_MAX_TTL);
    Some(check)
}

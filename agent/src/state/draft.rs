//! A group of changes on its way from the state in force to the next one.

mod fleet;

use super::change::{Change, ChangeError, Counts, Done, NewSecret, SessionEdit, warnings};
use super::overlay::{DayCounts, Overlay, PushedSecret, first_retained, is_in_file};
use super::store::{Read, StoreError, StoredSecret, Write};
use super::{Flags, List, Origin};
use crate::config::{self, Config, Layer};
use crate::metrics::Metrics;
use crate::snapshot::{Shared, Snapshot};
use ipnet::IpNet;
use std::sync::Arc;
use validator_core::limits::{MAX_INTEGER, MAX_KID};
use validator_core::{Day, Sessions};
use zeroize::Zeroizing;

/// Longest name of a session that is accepted, in bytes. Those in tokens are bounded by the token.
pub(crate) const MAX_SID: usize = 1024;

/// What the next state will be. Nothing of it is in force, and nothing stored, before [`Draft::write`] is committed.
pub(super) struct Draft<'a> {
    current: &'a Snapshot,
    metrics: &'a Metrics,
    now: u64,
    /// Where it is stored; an agent without a store has only its file.
    write: Option<Write<'a>>,
    /// What is stored, where nothing can be written.
    read: Option<Read>,
    overlay: Overlay,
    texts: Config,
    sessions: Sessions,
    /// Sessions whose newest day is, or may be, another one.
    touched: Vec<Box<str>>,
    /// Whether all sessions may be others.
    resessioned: bool,
    /// Whether a change was given up midway.
    spoilt: bool,
    /// What else than sessions has to be built anew.
    rebuild: Rebuild,
    dirty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rebuild {
    Nothing,
    /// Keys, which the kernel knows nothing of.
    Keys,
    /// Address lists.
    Lists,
    /// Everything, down to the databases.
    All,
}

/// The next state, complete.
pub(super) struct Next<'a> {
    /// To be put in force.
    pub(super) snapshot: Snapshot,
    /// To be committed first.
    pub(super) write: Option<Write<'a>>,
    /// Sessions that changed, where nothing else did.
    pub(super) touched: Option<Vec<Box<str>>>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        current: &'a Snapshot,
        write: Option<Write<'a>>,
        read: Option<Read>,
        metrics: &'a Metrics,
        now: u64,
    ) -> Self {
        Self {
            current,
            metrics,
            now,
            write,
            read,
            overlay: current.overlay.clone(),
            texts: current.texts.clone(),
            sessions: current.config.policy.sessions.clone(),
            touched: Vec::new(),
            resessioned: false,
            spoilt: false,
            rebuild: Rebuild::Nothing,
            dirty: false,
        }
    }

    /// Whether anything is different.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether a change was given up midway, so that the draft is of no use.
    pub(super) fn is_spoilt(&self) -> bool {
        self.spoilt
    }

    /// Works a change in.
    ///
    /// # Errors
    /// [`ChangeError`]: nothing has changed, unless the draft is spoilt now or the store failed.
    pub(super) fn apply(&mut self, change: &Change) -> Result<Done, ChangeError> {
        if self.write.is_none() && !matches!(change, Change::Reload | Change::Forget) {
            return Err(ChangeError::NoStore);
        }
        match change {
            Change::Reload => self.reload(),
            Change::Config { origin, text, expected, dry_run } => {
                self.config(*origin, text.as_deref(), *expected, *dry_run)
            }
            Change::Sessions { origin, edits, remove: false } => self.add(*origin, edits).map(Done::Sessions),
            Change::Sessions { origin, edits, remove: true } => {
                self.remove(*origin, edits).map(Done::Sessions)
            }
            Change::Day { origin, day, sids } => self.replace_day(*origin, *day, sids).map(Done::Counts),
            Change::AllDays { origin } => self.drop_days(*origin).map(Done::Counts),
            Change::Everywhere { origin, sids } => self.remove_everywhere(*origin, sids).map(Done::Sessions),
            Change::Secret { origin, kid, slot, secret } => self.secret(*origin, kid, *slot, secret.as_ref()),
            Change::Net { origin, list, net, remove } => {
                self.net(*origin, *list, *net, *remove).map(Done::Counts)
            }
            Change::Nets { list, nets } => self.nets(*list, nets).map(Done::Counts),
            Change::Part { day, part, sids } => self.part(*day, *part, sids, true).map(Done::Counts),
            Change::Fleet { revision, bucket, changes } => {
                self.fleet(*revision, bucket.as_deref(), changes).map(Done::Counts)
            }
            Change::Forget => self.forget().map(Done::Counts),
        }
    }

    /// Builds the next state.
    ///
    /// # Errors
    /// What the changes make impossible.
    pub(super) fn finish(self) -> Result<Next<'a>, ChangeError> {
        let capacity = self.texts.blacklist_capacity;
        if self.sessions.len() > capacity {
            return Err(full_of_sessions(capacity));
        }
        let revision = self.current.revision + 1;
        if let Some(write) = &self.write {
            write.set_revision(revision)?;
        }
        let Self { current, metrics, overlay, texts, sessions, touched, write, .. } = self;
        let few = !self.resessioned && self.rebuild <= Rebuild::Keys;
        let shared = match self.rebuild {
            Rebuild::All => Shared::NOTHING,
            Rebuild::Lists => current.shared(false),
            Rebuild::Keys | Rebuild::Nothing => current.shared(few),
        };
        let snapshot = if few && self.rebuild == Rebuild::Nothing {
            current.with_sessions(sessions, overlay, revision)
        } else {
            Snapshot::build(texts, overlay, sessions, shared, revision, metrics)?
        };
        Ok(Next { snapshot, write, touched: few.then_some(touched) })
    }

    fn reload(&mut self) -> Result<Done, ChangeError> {
        let text = config::read_text(&self.overlay.file).map_err(ChangeError::Config)?;
        let changed = *text != **self.overlay.base;
        let mut overlay = self.overlay.clone();
        overlay.base = Arc::new(text);
        let warnings = self.take_texts(overlay)?;
        // Databases and key files may have changed although the text has not.
        self.change_config()?;
        Ok(Done::Config { changed, warnings })
    }

    fn config(
        &mut self,
        origin: Origin,
        text: Option<&String>,
        expected: Option<u64>,
        dry_run: bool,
    ) -> Result<Done, ChangeError> {
        // Sessions are pushed all the time; what counts is that the configuration is still the one of that version. What came
        // before in the same group has made another one already.
        let present = self.overlay.config_revision;
        if let Some(expected) = expected
            && !(present..=self.current.revision).contains(&expected)
        {
            return Err(ChangeError::Version { expected, present });
        }
        let mut overlay = self.overlay.clone();
        let changed = overlay.config.get(&origin).map(|text| text.as_str()) != text.map(String::as_str);
        match text {
            Some(text) => drop(overlay.config.insert(origin, Arc::new(Zeroizing::new(text.clone())))),
            None => drop(overlay.config.remove(&origin)),
        }
        if dry_run {
            let texts = self.read_texts(&overlay)?;
            let checked = Draft::new(self.current, None, None, self.metrics, self.now);
            checked.check(overlay, &texts)?;
            let same = texts.days == self.texts.days
                && texts.policy.sessions.retain_days() == self.sessions.retain_days();
            if same && self.sessions.len() > texts.blacklist_capacity {
                return Err(full_of_sessions(texts.blacklist_capacity));
            }
            return Ok(Done::Config { changed, warnings: warnings(&texts.warnings) });
        }
        let warnings = self.take_texts(overlay)?;
        if changed {
            self.writing()?.set_config(origin, text.map(String::as_str))?;
            self.change_config()?;
        }
        Ok(Done::Config { changed, warnings })
    }

    fn change_config(&mut self) -> Result<(), ChangeError> {
        let revision = self.current.revision + 1;
        if let Some(write) = &self.write {
            write.set_config_revision(revision)?;
        }
        self.overlay.config_revision = revision;
        self.rebuild = Rebuild::All;
        self.dirty = true;
        Ok(())
    }

    /// Whether a configuration could be in force, databases and kernel tables included.
    fn check(&self, overlay: Overlay, texts: &Config) -> Result<(), ChangeError> {
        let built = Snapshot::build(
            texts.clone(),
            overlay,
            texts.policy.sessions.clone(),
            Shared::NOTHING,
            self.current.revision,
            self.metrics,
        )?;
        drop(built);
        Ok(())
    }

    fn read_texts(&self, overlay: &Overlay) -> Result<Config, ChangeError> {
        let layers: Vec<Layer<'_>> = overlay.layers().into_iter().map(|(_, layer)| layer).collect();
        let texts = config::parse_layers(&layers, self.now).map_err(ChangeError::Config)?;
        match needs_restart(&self.current.texts, &texts) {
            Some(key) => Err(ChangeError::NeedsRestart(key)),
            None => Ok(texts),
        }
    }

    /// Has other texts. Gives their warnings.
    fn take_texts(&mut self, overlay: Overlay) -> Result<Vec<String>, ChangeError> {
        let texts = self.read_texts(&overlay)?;
        let warnings = warnings(&texts.warnings);
        let retain_days = texts.policy.sessions.retain_days();
        let resessioned = texts.days != self.texts.days || retain_days != self.sessions.retain_days();
        (self.overlay, self.texts) = (overlay, texts);
        if resessioned {
            self.read_sessions()?;
        }
        Ok(warnings)
    }

    /// Puts the sessions together again from the texts and the store.
    fn read_sessions(&mut self) -> Result<(), ChangeError> {
        self.resessioned = true;
        let (sessions, days) = match (&self.write, &self.read) {
            (Some(write), _) => {
                Overlay::sessions(&self.texts, self.now, |first, each| write.sessions(first, each))
            }
            (None, Some(read)) => {
                Overlay::sessions(&self.texts, self.now, |first, each| read.sessions(first, each))
            }
            (None, None) => Overlay::sessions(&self.texts, self.now, |_, _| Ok(())),
        }?;
        (self.sessions, self.overlay.days) = (sessions, Arc::new(days));
        Ok(())
    }

    fn add(&mut self, origin: Origin, edits: &[SessionEdit]) -> Result<Counts, ChangeError> {
        let Self { sessions, texts, touched, overlay, write, now, .. } = self;
        let capacity = texts.blacklist_capacity;
        let mut done = Counts::default();
        let mut accepted = Vec::with_capacity(edits.len());
        for (index, SessionEdit { day, sid }) in edits.iter().enumerate() {
            if let Err(why) = check_sid(sid) {
                done.refused.push((index, why));
            } else if !sessions.is_retained(*day, *now) {
                let retain_days = sessions.retain_days();
                done.refused.push((
                    index,
                    format!("the list of {day} has ended: blacklist.retain_days is {retain_days}"),
                ));
            } else if sessions.len() >= capacity && sessions.newest(sid).is_none() {
                done.refused.push((index, full_of_sessions(capacity).to_string()));
            } else {
                if sessions.add(*day, sid) {
                    touched.push(sid.clone());
                }
                accepted.push((*day, &**sid));
            }
        }
        // In the order of the store, so that neighbours meet the same pages.
        accepted.sort_unstable();
        accepted.dedup();
        done.present = (edits.len() - done.refused.len() - accepted.len()) as u64;
        let days = Arc::make_mut(&mut overlay.days);
        let mut changed = false;
        // Removed by the operator, whose word counts more than the fleet's.
        let mut hidden = Vec::new();
        let write = write.as_ref().ok_or(ChangeError::NoStore)?;
        write.add_sessions(accepted.iter().copied(), Flags::NONE.added(origin), |index, old| {
            let Some(&(day, sid)) = accepted.get(index) else { return old };
            let in_file = is_in_file(texts, day, sid);
            let new = old.added(origin);
            if old.is_listed(in_file) {
                done.present += 1;
            } else if new.is_listed(in_file) {
                done.added += 1;
            } else {
                done.absent += 1;
                hidden.push(sid);
            }
            changed |= new != old;
            days.entry(day).or_default().change(old, new, in_file);
            new
        })?;
        self.dirty |= changed;
        let hidden: Vec<Box<str>> = hidden.into_iter().map(Box::from).collect();
        self.look_again(hidden)?;
        Ok(done)
    }

    fn remove(&mut self, origin: Origin, edits: &[SessionEdit]) -> Result<Counts, ChangeError> {
        let Self { texts, overlay, write, .. } = self;
        let mut done = Counts::default();
        let mut accepted: Vec<(Day, &str)> = edits.iter().map(|edit| (edit.day, &*edit.sid)).collect();
        accepted.sort_unstable();
        accepted.dedup();
        done.absent = (edits.len() - accepted.len()) as u64;
        let days = Arc::make_mut(&mut overlay.days);
        let mut changed = false;
        let mut removed = Vec::new();
        let write = write.as_ref().ok_or(ChangeError::NoStore)?;
        write.change_sessions(accepted.iter().copied(), |index, old| {
            let Some(&(day, sid)) = accepted.get(index) else { return old };
            let in_file = is_in_file(texts, day, sid);
            let was_listed = old.is_listed(in_file);
            let new = old.removed(origin, in_file);
            if was_listed && !new.is_listed(in_file) {
                done.removed += 1;
                removed.push(sid);
            } else {
                done.absent += 1;
            }
            changed |= new != old;
            days.entry(day).or_default().change(old, new, in_file);
            new
        })?;
        days.retain(|_, counts| *counts != DayCounts::default());
        self.dirty |= changed;
        let removed: Vec<Box<str>> = removed.into_iter().map(Box::from).collect();
        self.look_again(removed)?;
        Ok(done)
    }

    /// Finds the newest day of sessions that have left a list.
    fn look_again(&mut self, sids: Vec<Box<str>>) -> Result<(), ChangeError> {
        let days = self.days();
        for sid in sids {
            let mut newest = None;
            for &day in &days {
                let flags = self.writing()?.session(day, &sid)?;
                if flags.is_listed(is_in_file(&self.texts, day, &sid)) {
                    newest = Some(day);
                    break;
                }
            }
            if newest != self.sessions.newest(&sid) {
                self.sessions.set(&sid, newest);
                self.touched.push(sid);
            }
        }
        Ok(())
    }

    fn replace_day(&mut self, origin: Origin, day: Day, sids: &[Box<str>]) -> Result<Counts, ChangeError> {
        if !sids.is_empty() && !self.sessions.is_retained(day, self.now) {
            let retain_days = self.sessions.retain_days();
            let why = format!("the list of {day} has ended: blacklist.retain_days is {retain_days}");
            return Err(ChangeError::Invalid(why));
        }
        let mut wanted: Vec<&str> = sids.iter().map(|sid| &**sid).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for sid in &wanted {
            check_sid(sid).map_err(ChangeError::Invalid)?;
        }
        let in_file = self.texts.days.get(&day).map(Vec::as_slice).unwrap_or_default();
        let there = self.writing()?.day(day)?;
        // The fleet takes back what it has put there, the operator whatever is there.
        let fleet = origin == Origin::Fleet;
        let in_file = if fleet { &[] } else { in_file };
        let names = there
            .iter()
            .filter(|(_, flags)| if fleet { flags.has(origin) } else { flags.is_listed(true) })
            .map(|(sid, _)| sid)
            .chain(in_file)
            .filter(|sid| wanted.binary_search(&&***sid).is_err());
        let gone: Vec<SessionEdit> = names.map(|sid| SessionEdit { day, sid: sid.clone() }).collect();
        let come: Vec<SessionEdit> =
            wanted.iter().map(|sid| SessionEdit { day, sid: (*sid).into() }).collect();
        let new = come.iter().filter(|edit| self.sessions.newest(&edit.sid).is_none()).count();
        let capacity = self.texts.blacklist_capacity;
        // Which of them leave for good is only looked up where it matters.
        if new > 0
            && self.sessions.len() + new > capacity
            && self.sessions.len() + new > capacity + self.leaving(origin, day, &gone)?
        {
            return Err(full_of_sessions(capacity));
        }
        let removed = self.remove(origin, &gone)?;
        let added = self.add(origin, &come)?;
        if !added.refused.is_empty() {
            self.spoilt = true;
            return Err(full_of_sessions(self.texts.blacklist_capacity));
        }
        Ok(Counts { removed: removed.removed, ..added })
    }

    /// How many sessions will stand in no list at all once they have left one.
    fn leaving(&self, origin: Origin, day: Day, gone: &[SessionEdit]) -> Result<usize, ChangeError> {
        let days = self.days();
        let mut leaving = 0;
        for SessionEdit { sid, .. } in gone {
            let mut stays = false;
            for &other in &days {
                let in_file = is_in_file(&self.texts, other, sid);
                let flags = self.writing()?.session(other, sid)?;
                let flags = if other == day { flags.removed(origin, in_file) } else { flags };
                stays |= flags.is_listed(in_file);
            }
            leaving += usize::from(!stays);
        }
        Ok(leaving)
    }

    fn drop_days(&mut self, origin: Origin) -> Result<Counts, ChangeError> {
        let mut done = Counts::default();
        for day in self.days() {
            done.removed += self.replace_day(origin, day, &[])?.removed;
        }
        Ok(done)
    }

    /// Days that have a list, the last one first.
    fn days(&self) -> Vec<Day> {
        let mut days: Vec<Day> = self.overlay.days.keys().chain(self.texts.days.keys()).copied().collect();
        days.sort_unstable_by(|a, b| b.cmp(a));
        days.dedup();
        days
    }

    fn remove_everywhere(&mut self, origin: Origin, sids: &[Box<str>]) -> Result<Counts, ChangeError> {
        let mut done = Counts::default();
        let before: Vec<bool> = sids.iter().map(|sid| self.sessions.newest(sid).is_some()).collect();
        for day in self.days() {
            let edits: Vec<SessionEdit> =
                sids.iter().map(|sid| SessionEdit { day, sid: sid.clone() }).collect();
            done.removed += self.remove(origin, &edits)?.removed;
        }
        done.absent = before.into_iter().filter(|&there| !there).count() as u64;
        Ok(done)
    }

    fn secret(
        &mut self,
        origin: Origin,
        kid: &str,
        slot: u64,
        secret: Option<&NewSecret>,
    ) -> Result<Done, ChangeError> {
        if kid.is_empty() || kid.len() > MAX_KID || kid.contains(char::is_control) {
            let text = format!("a secret's name has 1 to {MAX_KID} bytes and no control characters");
            return Err(ChangeError::Invalid(text));
        }
        if slot > MAX_INTEGER || secret.is_some_and(|secret| secret.until.is_some_and(|u| u > MAX_INTEGER)) {
            return Err(ChangeError::Invalid(format!("slot and until are at most {MAX_INTEGER}")));
        }
        let in_file = self.texts.slots.iter().any(|info| (&*info.kid, info.slot) == (kid, slot));
        let place = (Box::from(kid), slot);
        let known = self.overlay.secrets.get(&place);
        let there = match known.and_then(|origins| origins.values().next_back()) {
            Some(secret) => secret.key.is_some(),
            None => in_file,
        };
        let stored = match secret {
            Some(new) => {
                let bytes = Some(new.bytes.clone());
                Some(StoredSecret { until: new.until, any_size: new.any_size, key: bytes })
            }
            // The fleet says nothing of it any more; what others say counts again.
            None if origin == Origin::Fleet => {
                if known.is_none_or(|origins| !origins.contains_key(&origin)) {
                    return Ok(Done::Counts(Counts::default()));
                }
                None
            }
            None if !there => {
                return Err(ChangeError::NotFound(format!("there is no slot {slot} of the secret {kid:?}")));
            }
            // What lies below must not come up again.
            None if in_file || known.is_some_and(|origins| origins.keys().any(|other| *other < origin)) => {
                Some(StoredSecret { until: None, any_size: false, key: None })
            }
            None => None,
        };
        self.writing()?.set_secret(kid, slot, origin, stored.as_ref())?;
        let secrets = Arc::make_mut(&mut self.overlay.secrets);
        let origins = secrets.entry(place.clone()).or_default();
        match stored {
            Some(stored) => {
                let key = secret.map(|new| (new.key.clone(), new.bytes.len()));
                origins.insert(origin, PushedSecret { until: stored.until, key });
            }
            None => drop(origins.remove(&origin)),
        }
        if origins.is_empty() {
            secrets.remove(&place);
        }
        self.rebuild = self.rebuild.max(Rebuild::Keys);
        self.dirty = true;
        Ok(match secret {
            Some(_) => Done::SecretSet { replaced: there },
            None => Done::Counts(Counts { removed: 1, ..Counts::default() }),
        })
    }

    fn net(&mut self, origin: Origin, list: List, net: IpNet, remove: bool) -> Result<Counts, ChangeError> {
        let net = net.trunc();
        let in_file = self.file_nets(list).iter().any(|other| other.trunc() == net);
        let old = self.overlay.flags(list, &net);
        let was_listed = old.is_listed(in_file);
        let new = if remove { old.removed(origin, in_file) } else { old.added(origin) };
        self.set_net(list, net, old, new)?;
        let is_listed = new.is_listed(in_file);
        let mut done = Counts::default();
        *match (remove, was_listed, is_listed) {
            (false, false, true) => &mut done.added,
            (false, true, _) => &mut done.present,
            (true, true, false) => &mut done.removed,
            (true, _, _) | (false, false, false) => &mut done.absent,
        } = 1;
        Ok(done)
    }

    fn set_net(&mut self, list: List, net: IpNet, old: Flags, new: Flags) -> Result<(), ChangeError> {
        if new == old {
            return Ok(());
        }
        self.writing()?.set_list(list, &net.to_string(), new)?;
        let lists = Arc::make_mut(&mut self.overlay.lists);
        match new {
            Flags::NONE => drop(lists.remove(&(list, net))),
            new => drop(lists.insert((list, net), new)),
        }
        self.rebuild = self.rebuild.max(Rebuild::Lists);
        self.dirty = true;
        Ok(())
    }

    fn file_nets(&self, list: List) -> &[IpNet] {
        match list {
            List::Deny => &self.texts.kernel.deny,
            List::Allow => &self.texts.kernel.allow,
        }
    }

    fn forget(&mut self) -> Result<Counts, ChangeError> {
        let first = first_retained(self.sessions.retain_days(), self.now);
        if self.overlay.days.keys().all(|&day| day >= first) {
            return Ok(Counts::default());
        }
        let Self { sessions, touched, overlay, texts, write, .. } = self;
        let mut done = Counts::default();
        let mut leave = |day: Day, sid: &str| {
            if sessions.newest(sid) == Some(day) {
                sessions.set(sid, None);
                touched.push(sid.into());
                done.removed += 1;
            }
        };
        if let Some(write) = write {
            write.forget_before(first, &mut leave)?;
            write.forget_fleet_before(first)?;
        }
        for (&day, sids) in texts.days.range(..first) {
            sids.iter().for_each(|sid| leave(day, sid));
        }
        Arc::make_mut(&mut overlay.days).retain(|&day, _| day >= first);
        self.dirty = true;
        Ok(done)
    }

    fn writing(&self) -> Result<&Write<'a>, ChangeError> {
        self.write.as_ref().ok_or(ChangeError::NoStore)
    }
}

/// Whether a session may have this name.
pub(crate) fn check_sid(sid: &str) -> Result<(), String> {
    if sid.is_empty() {
        Err("a session has a name".to_owned())
    } else if sid.len() > MAX_SID {
        Err(format!("the name has {} bytes; at most {MAX_SID} are accepted", sid.len()))
    } else if sid.contains(char::is_control) {
        Err("the name has a control character".to_owned())
    } else {
        Ok(())
    }
}

fn full_of_sessions(capacity: usize) -> ChangeError {
    ChangeError::Full(format!(
        "the blacklist is full: it has {capacity} sessions; raise blacklist.capacity and restart the agent, or remove days"
    ))
}

/// The first key whose new value only a restart could put in force. Sockets are bound, logs and the store opened once.
fn needs_restart(old: &Config, new: &Config) -> Option<&'static str> {
    let gateway = |config: &Config| config.gateway.as_ref().map(|g| g.listen.clone());
    let connections = |config: &Config| config.gateway.as_ref().map(|g| g.max_connections);
    let auth = |config: &Config| config.auth.as_ref().map(|a| a.listen.clone());
    if gateway(old) != gateway(new) {
        Some("gateway.listen")
    } else if connections(old) != connections(new) {
        Some("gateway.max_connections")
    } else if auth(old) != auth(new) {
        Some("auth.listen")
    } else if old.metrics != new.metrics {
        Some("metrics.listen")
    } else if old.control != new.control {
        Some("control.socket")
    } else if old.fleet != new.fleet {
        Some("fleet")
    } else if (old.control.is_some() || old.fleet.is_some()) && old.state_dir != new.state_dir {
        Some("state_dir")
    } else if old.log != new.log {
        Some("log")
    } else if old.kernel.mode != new.kernel.mode {
        Some("prefilter.mode")
    } else if old.kernel.pin_dir != new.kernel.pin_dir {
        Some("prefilter.pin_dir")
    } else if !old.kernel.interfaces.is_empty() && old.blacklist_capacity != new.blacklist_capacity {
        Some("blacklist.capacity")
    } else {
        None
    }
}

impl From<StoreError> for crate::snapshot::LoadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

//! Changes of the fleet: each says what all of a thing is from now on, so that it can come twice, and after any outage.

use super::{Change, ChangeError, Counts, Draft, List, Origin, SessionEdit, check_sid};
use ipnet::IpNet;
use std::collections::BTreeSet;
use validator_core::Day;

impl Draft<'_> {
    /// Works in what stands for a revision of the bucket. What is wrong with a change is reported among the refusals.
    pub(super) fn fleet(
        &mut self,
        revision: u64,
        bucket: Option<&str>,
        changes: &[Change],
    ) -> Result<Counts, ChangeError> {
        // What leaves makes room for what comes.
        for change in changes {
            if let Change::Part { day, part, sids } = change {
                self.part(*day, *part, sids, false)?;
            }
        }
        let mut done = Counts::default();
        for (index, change) in changes.iter().enumerate() {
            match self.apply(change) {
                Ok(super::Done::Counts(counts)) => {
                    if let Some((_, why)) = counts.refused.first() {
                        let more = counts.refused.len() - 1;
                        let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
                        done.refused.push((index, format!("{why}{more}")));
                    }
                }
                Ok(_) => {}
                Err(error @ ChangeError::Store(_)) => return Err(error),
                Err(error) => done.refused.push((index, error.to_string())),
            }
        }
        let write = self.writing()?;
        write.set_fleet_revision(revision)?;
        if !done.refused.is_empty() {
            // The next start reads all of it, and may then be able to.
            write.set_fleet_bucket(None)?;
        } else if bucket.is_some() {
            write.set_fleet_bucket(bucket)?;
        }
        self.dirty = true;
        Ok(done)
    }

    /// The fleet's sessions of a part of a day's list are these; without `come`, no others than these.
    pub(super) fn part(
        &mut self,
        day: Day,
        part: u8,
        sids: &[Box<str>],
        come: bool,
    ) -> Result<Counts, ChangeError> {
        if !self.sessions.is_retained(day, self.now) {
            return Ok(Counts::default());
        }
        let mut refused = Vec::new();
        let mut wanted = BTreeSet::new();
        for (index, sid) in sids.iter().enumerate() {
            match check_sid(sid) {
                Ok(()) => drop(wanted.insert(sid.clone())),
                Err(why) => refused.push((index, why)),
            }
        }
        let old = self.writing()?.fleet_part(day, part)?;
        let edit = |sid| SessionEdit { day, sid };
        let gone: Vec<_> = old.difference(&wanted).cloned().map(edit).collect();
        let coming: Vec<_> =
            if come { wanted.difference(&old).cloned().map(edit).collect() } else { Vec::new() };
        if gone.is_empty() && coming.is_empty() {
            return Ok(Counts { refused, ..Counts::default() });
        }
        let removed = self.remove(Origin::Fleet, &gone)?.removed;
        let added = self.add(Origin::Fleet, &coming)?;
        // What found no room may find some when it comes again.
        if !come {
            wanted = wanted.intersection(&old).cloned().collect();
        }
        for (index, why) in added.refused {
            if let Some(edit) = coming.get(index) {
                wanted.remove(&edit.sid);
            }
            refused.push((index, why));
        }
        self.writing()?.set_fleet_part(day, part, &wanted)?;
        self.dirty = true;
        Ok(Counts { added: added.added, present: added.present, removed, refused, ..Counts::default() })
    }

    /// The fleet's networks of a list are these.
    pub(super) fn nets(&mut self, list: List, nets: &[IpNet]) -> Result<Counts, ChangeError> {
        let wanted: BTreeSet<IpNet> = nets.iter().map(IpNet::trunc).collect();
        let there = self.overlay.lists.iter();
        let there = there.filter(|((of, _), flags)| *of == list && flags.has(Origin::Fleet));
        let there: BTreeSet<IpNet> = there.map(|((_, net), _)| *net).collect();
        let mut done = Counts::default();
        for net in there.difference(&wanted) {
            done.removed += self.net(Origin::Fleet, list, *net, true)?.removed;
        }
        // What an operator has removed here since it came stays removed.
        for net in wanted.difference(&there) {
            let added = self.net(Origin::Fleet, list, *net, false)?;
            done.added += added.added;
            done.present += added.present;
        }
        Ok(done)
    }
}

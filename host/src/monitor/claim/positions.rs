//! Where to look for tasks: after the position at which the last look at a lane ended, and now and
//! then from the front, for what was committed late, promoted, retried or is more urgent.
//!
//! Without remembered positions each claim walks over the dead index entries of all the tasks
//! before it, and a forgotten transaction anywhere in the cluster cuts throughput to a tenth.

use super::appetite::Appetite;
use crate::store::{Claimed, Scan};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Looks from the front take at most one part in this many of the time,
const FRONT_SHARE: u32 = 10;
/// but there is at least one in each of these periods.
const FRONT_AT_LEAST: Duration = Duration::from_secs(1);
/// A position that has led to nothing for so long is forgotten: a look from the front finds what is
/// left there.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// How many ranks of one lane have a remembered position, those that were met last: each is a scan of its own.
const RANKS_PER_LANE: usize = 16;
/// Before any rank and id.
const FRONT: (i16, i64) = (i16::MIN, 0);

/// Remembers how far each lane has been read.
#[derive(Debug, Default)]
pub(in crate::monitor) struct Positions {
    /// Per lane and rank, the id after which to go on, and when a task was last found there.
    read_to: BTreeMap<(i32, i16), (i64, Instant)>,
    /// When the last look from the front began, and how long it took.
    front: Option<(Instant, Duration)>,
    front_in_flight: Option<Instant>,
    was_front: bool,
}

impl Positions {
    /// Where to look now.
    pub(in crate::monitor) fn scans(&mut self, appetites: &[Appetite], now: Instant) -> Vec<Scan> {
        let from_front = self.front_is_due(now);
        self.front_in_flight = from_front.then_some(now);
        let mut scans = Vec::new();
        for appetite in appetites {
            let Appetite { pool, quota, .. } = *appetite;
            let wants = (0..).zip(&appetite.wants);
            let lanes = wants.flat_map(|(turn, want)| {
                let most = want.most;
                want.lanes.iter().map(move |lane| (*lane, turn, most))
            });
            for (lane, turn, most) in lanes {
                let scan = |after, last_rank| Scan {
                    lane,
                    after,
                    last_rank,
                    pool,
                    quota,
                    turn,
                    most,
                };
                if from_front {
                    scans.push(scan(FRONT, i16::MAX));
                    continue;
                }
                let mut known = self
                    .read_to
                    .range((lane, i16::MIN)..=(lane, i16::MAX))
                    .peekable();
                if known.peek().is_none() {
                    // Nothing was ever found here: the lane is new, or has nothing to walk over.
                    scans.push(scan(FRONT, i16::MAX));
                }
                scans.extend(known.map(|(&(_, rank), &(id, _))| scan((rank, id), rank)));
            }
        }
        scans
    }

    /// Whether enough time has passed for another look from the front, given what the last one
    /// cost: at once where the queue is in good health, about once a second where it is not.
    fn front_is_due(&self, now: Instant) -> bool {
        match self.front {
            None => true,
            Some((began, took)) => {
                now.duration_since(began) >= (took * FRONT_SHARE).min(FRONT_AT_LEAST)
            }
        }
    }

    /// When the next look from the front may happen; none: the last look was one.
    pub(in crate::monitor) fn next_front(&self) -> Option<Instant> {
        let (began, took) = self.front.filter(|_| !self.was_front)?;
        Some(began + (took * FRONT_SHARE).min(FRONT_AT_LEAST))
    }

    /// Learns from what a look has found.
    pub(in crate::monitor) fn learn(&mut self, claimed: &[Claimed], now: Instant) {
        self.was_front = self.front_in_flight.is_some();
        if let Some(began) = self.front_in_flight.take() {
            self.front = Some((began, now.duration_since(began)));
        }
        for task in claimed {
            let place = (task.lane, task.rank);
            let (read_to, met) = self.read_to.entry(place).or_insert((0, now));
            *read_to = (*read_to).max(task.task.0);
            *met = now;
        }
        self.forget(now);
    }

    /// Lanes and ranks come and go; each remembered position is a scan of its own in every claim.
    fn forget(&mut self, now: Instant) {
        self.read_to
            .retain(|_, (_, met)| now.saturating_duration_since(*met) < FORGOTTEN_AFTER);
        let mut by_lane: BTreeMap<i32, Vec<(Instant, i16)>> = BTreeMap::new();
        for (&(lane, rank), &(_, met)) in &self.read_to {
            by_lane.entry(lane).or_default().push((met, rank));
        }
        for (lane, mut ranks) in by_lane {
            ranks.sort_unstable();
            let surplus = ranks.len().saturating_sub(RANKS_PER_LANE);
            for (_, rank) in &ranks[..surplus] {
                self.read_to.remove(&(lane, *rank));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::claim::appetite::Want;

    fn one_of(lane: i32) -> Appetite {
        Appetite {
            pool: 0,
            domain: "d".into(),
            quota: 10,
            wants: vec![want(vec![lane])],
        }
    }

    fn want(lanes: Vec<i32>) -> Want {
        Want {
            plugin: "p".into(),
            lanes,
            most: 10,
        }
    }

    #[test]
    fn each_lane_is_scanned_in_the_turn_of_its_plugin() {
        let appetites = [
            Appetite {
                wants: vec![want(vec![1, 2]), want(vec![3])],
                ..one_of(0)
            },
            one_of(4),
        ];
        let scans = Positions::default().scans(&appetites, Instant::now());
        let turns: Vec<_> = scans.iter().map(|scan| (scan.lane, scan.turn)).collect();
        assert_eq!(turns, [(1, 0), (2, 0), (3, 1), (4, 0)]);
    }

    fn claimed(lane: i32, rank: i16, id: i64) -> Claimed {
        Claimed::example(id, lane, rank)
    }

    #[test]
    fn goes_on_where_the_last_look_ended_and_returns_to_the_front() {
        let mut positions = Positions::default();
        let appetites = [one_of(7)];
        let start = Instant::now();
        let scans = positions.scans(&appetites, start);
        assert_eq!(scans.len(), 1);
        assert_eq!(scans[0].after, FRONT);

        // That look took 50 ms, so for the next 500 ms it goes on from where it ended.
        let found = [claimed(7, 0, 40), claimed(7, -5, 12), claimed(7, 0, 41)];
        positions.learn(&found, start + Duration::from_millis(50));
        let scans = positions.scans(&appetites, start + Duration::from_millis(60));
        let after: Vec<_> = scans
            .iter()
            .map(|scan| (scan.after, scan.last_rank))
            .collect();
        assert_eq!(after, [((-5, 12), -5), ((0, 41), 0)]);

        let fresh = [one_of(8)];
        let scans = positions.scans(&fresh, start + Duration::from_millis(70));
        assert_eq!(
            scans[0].after, FRONT,
            "a lane that was never read has no position"
        );

        let scans = positions.scans(&appetites, start + Duration::from_millis(501));
        assert_eq!(scans[0].after, FRONT);
        assert_eq!(
            scans.len(),
            1,
            "a lane is never scanned twice in one statement"
        );
    }

    #[test]
    fn what_leads_to_nothing_any_more_is_forgotten() {
        let mut positions = Positions::default();
        let start = Instant::now();
        let found: Vec<Claimed> = (0..100).map(|rank| claimed(7, rank, 1)).collect();
        for (millisecond, task) in (0..).zip(&found) {
            let now = start + Duration::from_millis(millisecond);
            positions.learn(std::slice::from_ref(task), now);
        }
        positions.learn(&[claimed(8, 0, 5)], start + Duration::from_secs(1));
        let ranks: Vec<_> = positions.read_to.keys().copied().collect();
        let last = (84..100).map(|rank| (7, rank));
        assert_eq!(ranks, last.chain([(8, 0)]).collect::<Vec<_>>());

        let later = start + FORGOTTEN_AFTER + Duration::from_millis(500);
        positions.learn(&[], later);
        assert_eq!(positions.read_to.keys().collect::<Vec<_>>(), [&(8, 0)]);
        // Then the lane is read from the front again.
        positions.front = Some((later, Duration::from_secs(1)));
        let appetites = [one_of(7)];
        assert_eq!(positions.scans(&appetites, later)[0].after, FRONT);
    }

    #[test]
    fn a_slow_look_from_the_front_is_not_put_off_for_more_than_a_second() {
        let mut positions = Positions::default();
        let appetites = [one_of(7)];
        let start = Instant::now();
        positions.scans(&appetites, start);
        positions.learn(&[], start + Duration::from_secs(30));
        assert_eq!(
            positions.scans(&appetites, start + Duration::from_secs(31))[0].after,
            FRONT
        );
    }
}

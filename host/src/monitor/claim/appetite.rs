//! What the pools can take, as a claim asks for it.

use crate::store::Claimed;
use std::collections::HashMap;

/// A pool that can take tasks.
#[derive(Debug, Clone)]
pub(in crate::monitor) struct Appetite {
    /// Its number.
    pub(in crate::monitor) pool: i32,
    /// The domain that it belongs to.
    pub(in crate::monitor) domain: String,
    /// How many tasks it can take.
    pub(in crate::monitor) quota: i32,
    /// Of which plugins; where tasks are equally urgent, those of the first come first.
    pub(in crate::monitor) wants: Vec<Want>,
}

/// What a pool can take of one plugin.
#[derive(Debug, Clone)]
pub(in crate::monitor) struct Want {
    /// Hash of the plugin.
    pub(in crate::monitor) plugin: String,
    /// Where its tasks wait.
    pub(in crate::monitor) lanes: Vec<i32>,
    /// How many of them the pool can take.
    pub(in crate::monitor) most: i32,
}

/// How many tasks a look has brought for each want of each appetite.
pub(in crate::monitor) fn found(appetites: &[Appetite], claimed: &[Claimed]) -> Vec<Vec<usize>> {
    let mut found: Vec<Vec<usize>> = appetites
        .iter()
        .map(|appetite| vec![0; appetite.wants.len()])
        .collect();
    let mut places = HashMap::new();
    for (appetite, each) in appetites.iter().enumerate() {
        for (want, each) in each.wants.iter().enumerate() {
            places.extend(each.lanes.iter().map(|lane| (*lane, (appetite, want))));
        }
    }
    for task in claimed {
        if let Some(&(appetite, want)) = places.get(&task.lane) {
            found[appetite][want] += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(lane: i32) -> Claimed {
        Claimed::example(1, lane, 0)
    }

    fn of(pool: i32, wants: &[&[i32]]) -> Appetite {
        let want = |lanes: &&[i32]| Want {
            plugin: "p".into(),
            lanes: lanes.to_vec(),
            most: 10,
        };
        Appetite {
            pool,
            domain: "d".into(),
            quota: 10,
            wants: wants.iter().map(want).collect(),
        }
    }

    #[test]
    fn what_was_found_is_counted_for_whom_it_was_looked_for() {
        let appetites = [of(0, &[&[1, 2], &[3]]), of(1, &[&[4]])];
        let claimed: Vec<Claimed> = [1, 2, 2, 4].map(claimed).into();
        assert_eq!(found(&appetites, &claimed), [vec![3, 0], vec![1]]);
    }
}

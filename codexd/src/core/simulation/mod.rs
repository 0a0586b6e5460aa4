//! Random lives of a core: calls, answers, deaths, delays, failed commits and crashes at every point, against a child
//! that behaves as the real one does, held against a model that knows only what was promised.
//!
//! `BAA_SIMULATION_STEPS` makes the run longer, `BAA_SIMULATION_SEED` replays one life.

use std::collections::BTreeMap;

use super::*;
use acts::{act, settle};
use world::World;

mod acts;
mod model;
mod names;
mod peer;
mod world;

/// SplitMix64: small, and the same everywhere.
pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        (!list.is_empty()).then(|| &list[self.below(list.len() as u64) as usize])
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_lives_keep_the_promises() {
    /// Steps of one life: long enough for several crashes, short enough that replaying its disk stays cheap.
    const LIFE: u64 = 500;
    let steps = setting("BAA_SIMULATION_STEPS").unwrap_or(100_000);
    let one = setting("BAA_SIMULATION_SEED");
    let seeds = one.map_or(0..steps.div_ceil(LIFE), |seed| seed..seed + 1);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for seed in seeds {
        let life = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..LIFE {
                for _ in 0..=world.random.below(3) {
                    act(&mut world);
                }
                world.commit();
            }
            settle(&mut world);
            world.seen
        });
        match life {
            Ok(life) => life.into_iter().for_each(|(what, count)| *seen.entry(what).or_default() += count),
            Err(_) => panic!("replay this life with BAA_SIMULATION_SEED={seed}"),
        }
    }
    for (what, count) in &seen {
        println!("{count:>9} {what}");
    }
    let never: Vec<_> = names::EXPECTED.iter().filter(|what| !seen.contains_key(**what)).collect();
    assert!(one.is_some() || never.is_empty(), "what never happened proves nothing: {never:?}");
}

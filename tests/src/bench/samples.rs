//! Times that were measured, and what is said of them.

use std::time::Duration;

/// Times of one contestant, in no order.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// One more time.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The times of another round of the same contestant.
    pub fn extend(&mut self, other: Samples) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that this share of the samples does not exceed: 0.5 is the median. Zero where there is none.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Samples {
        Samples(times.into_iter().collect())
    }
}

/// Lets the contestants have one round each, in turn, `rounds` times, and puts each one's times together: what the machine
/// does meanwhile, it does to all of them.
pub fn interleaved<const N: usize>(
    rounds: usize,
    mut contestants: [&mut dyn FnMut() -> Samples; N],
) -> [Samples; N] {
    let mut all = [(); N].map(|()| Samples::default());
    for _ in 0..rounds {
        for (samples, contestant) in all.iter_mut().zip(&mut contestants) {
            samples.extend(contestant());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let samples: Samples = (1..=100).rev().map(Duration::from_millis).collect();
        let of = |share| samples.quantile(share).as_millis();
        assert_eq!([of(0.0), of(0.5), of(0.99), of(1.0)], [1, 50, 99, 100]);
        assert_eq!(Samples::default().quantile(0.5), Duration::ZERO);
    }
}

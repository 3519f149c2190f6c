//! What came of a run of trains: how much of each, and which rate was clean.

use crate::wire::Probe;

/// Trains of a run that are remembered.
const TRAINS_MAX: usize = 64;

/// A train, as it came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct TrainSeen {
    /// Which of its run.
    pub train: u16,
    /// The rate at which it was sent, bits per second; 0 as long as its end did not come.
    pub rate_bits_per_s: u64,
    /// Its datagrams: those that were sent once its end came, before that the highest number that came and one.
    pub sent: u32,
    /// Those that came.
    pub received: u32,
}

/// The newest run of trains.
#[derive(Debug, Clone, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ProbeSeen {
    /// When it began, by the sender's clock, milliseconds since 1970.
    pub run: u64,
    /// Its trains.
    pub trains: Vec<TrainSeen>,
}

impl ProbeSeen {
    /// Takes an authentic probe; each comes once.
    pub fn take(&mut self, probe: &Probe) {
        if probe.run < self.run {
            return;
        }
        if probe.run > self.run {
            *self = Self { run: probe.run, trains: Vec::new() };
        }
        let at = match self.trains.iter().rposition(|train| train.train == probe.train) {
            Some(at) => at,
            None if self.trains.len() >= TRAINS_MAX => return,
            None => {
                self.trains.push(TrainSeen { train: probe.train, ..TrainSeen::default() });
                self.trains.len() - 1
            }
        };
        let Some(train) = self.trains.get_mut(at) else { return };
        if probe.is_end {
            (train.rate_bits_per_s, train.sent) = (probe.rate_bits_per_s, probe.number);
        } else {
            train.received = train.received.saturating_add(1);
            train.sent = train.sent.max(probe.number.saturating_add(1));
        }
    }

    /// The highest rate of a train of which everything came, if nothing of the slower ones was lost either; none if
    /// even the slowest lost something. A train whose end did not come counts as one that lost.
    pub fn clean_bits_per_s(&self) -> Option<u64> {
        let mut trains: Vec<&TrainSeen> = self.trains.iter().collect();
        trains.sort_by_key(|train| train.train);
        let is_clean = |train: &&&TrainSeen| train.rate_bits_per_s > 0 && train.received >= train.sent;
        trains.iter().take_while(is_clean).map(|train| train.rate_bits_per_s).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(
        seen: &mut ProbeSeen,
        run: u64,
        number: u16,
        came: std::ops::Range<u32>,
        end: Option<(u64, u32)>,
    ) {
        let mut probe = Probe { is_end: false, run, train: number, rate_bits_per_s: 0, number: 0 };
        for number in came {
            probe.number = number;
            seen.take(&probe);
        }
        if let Some((rate_bits_per_s, count)) = end {
            seen.take(&Probe { is_end: true, rate_bits_per_s, number: count, ..probe });
        }
    }

    #[test]
    fn the_highest_rate_below_which_nothing_was_lost_counts() {
        let mut seen = ProbeSeen::default();
        assert_eq!(seen.clean_bits_per_s(), None);
        train(&mut seen, 5, 0, 0..10, Some((100, 10)));
        train(&mut seen, 5, 1, 0..20, Some((200, 20)));
        assert_eq!(seen.clean_bits_per_s(), Some(200));
        train(&mut seen, 5, 2, 0..29, Some((300, 30)));
        train(&mut seen, 5, 3, 0..40, Some((400, 40)));
        assert_eq!(seen.clean_bits_per_s(), Some(200));
        // An older run that comes late says nothing; a newer one begins anew.
        train(&mut seen, 4, 0, 0..1, None);
        assert_eq!(seen.trains.len(), 4);
        train(&mut seen, 6, 0, 1..10, Some((100, 10)));
        assert_eq!((seen.clean_bits_per_s(), seen.trains.len()), (None, 1));
        train(&mut seen, 7, 0, 0..10, None);
        assert_eq!(seen.clean_bits_per_s(), None, "its end did not come");
    }

    #[test]
    fn no_more_trains_are_kept_than_a_run_has() {
        let mut seen = ProbeSeen::default();
        (0..1000).for_each(|number| train(&mut seen, 1, number, 0..1, None));
        assert_eq!(seen.trains.len(), TRAINS_MAX);
    }
}

//! How far each import is, for who looks on: also while a medium is being read, which keeps everything else of it busy.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use diodesync::id::ExportId;
use diodesync::volume::Layout;
use serde::{Deserialize, Serialize};

/// An import of which not everything is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The export.
    pub export: ExportId,
    /// When it was made, seconds since 1970.
    pub made_s: u64,
    /// Volumes that it has.
    pub volumes: u32,
    /// Slots of data.
    pub data_slots: u32,
    /// Those of them that are not here.
    pub missing_slots: u32,
    /// Where they lie.
    pub missing: Vec<VolumeLack>,
}

/// An import whose state cannot be read now, and that keeps its room. Its manifest, from one of its media, may mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// The export.
    pub export: ExportId,
    /// Why not.
    pub why: String,
}

/// The imports that are not finished.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    /// Those that wait for more.
    pub imports: Vec<Standing>,
    /// Those of which it cannot be said what is missing.
    pub stuck: Vec<Stuck>,
}

/// What is not here of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeLack {
    /// The volume, from 1.
    pub volume: u32,
    /// Slots of data.
    pub slots: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Standings(Mutex<BTreeMap<ExportId, Counted>>);

#[derive(Debug)]
struct Counted {
    made_s: u64,
    layout: Layout,
    /// By volume, from 0.
    missing: BTreeMap<u32, u32>,
}

/// Slots by the volume that they lie on, from 0.
fn by_volume(layout: &Layout, slots: &[u32]) -> BTreeMap<u32, u32> {
    let mut volumes = BTreeMap::new();
    for slot in slots {
        *volumes.entry(layout.volume(*slot).0).or_default() += 1;
    }
    volumes
}

impl Standings {
    fn all(&self) -> MutexGuard<'_, BTreeMap<ExportId, Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts anew.
    pub fn count(&self, export: ExportId, made_s: u64, layout: Layout, missing: &[u32]) {
        let missing = by_volume(&layout, missing);
        self.all().insert(export, Counted { made_s, layout, missing });
    }

    /// A slot of data came.
    pub fn came(&self, export: ExportId, slot: u32) {
        if let Some(counted) = self.all().get_mut(&export)
            && let Some(slots) = counted.missing.get_mut(&counted.layout.volume(slot).0)
        {
            *slots = slots.saturating_sub(1);
        }
    }

    /// Everything is here.
    pub fn forget(&self, export: ExportId) {
        self.all().remove(&export);
    }

    /// How far an import is; none if it was not begun by this process.
    pub fn get(&self, export: ExportId) -> Option<Standing> {
        let all = self.all();
        let Counted { made_s, layout, missing } = all.get(&export)?;
        let missing = missing.iter().filter(|(_, slots)| **slots > 0);
        Some(Standing {
            export,
            made_s: *made_s,
            volumes: layout.volumes(),
            data_slots: layout.data_slots(),
            missing_slots: missing.clone().map(|(_, slots)| slots).sum(),
            missing: missing
                .map(|(volume, slots)| VolumeLack { volume: volume + 1, slots: *slots })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_counted_by_its_volume() {
        let layout = Layout::new(40, 0, 2 << 20).unwrap();
        assert!(layout.volumes() >= 3, "{layout:?}");
        let (standings, export) = (Standings::default(), ExportId([7; 8]));
        assert_eq!(standings.get(export), None);
        let all: Vec<u32> = (0..layout.data_slots()).collect();
        standings.count(export, 5, layout, &all);
        let first = standings.get(export).unwrap();
        assert_eq!((first.missing_slots, first.made_s), (40, 5));
        assert_eq!(first.missing.iter().map(|lack| lack.slots).sum::<u32>(), 40);
        // All of the first volume, and one that came before.
        let slots = all.iter().filter(|slot| layout.volume(**slot).0 == 0);
        slots.chain([&0]).for_each(|slot| standings.came(export, *slot));
        let then = standings.get(export).unwrap();
        assert_eq!(then.missing, first.missing[1..]);
        assert_eq!(then.missing_slots, 40 - first.missing[0].slots);
        standings.forget(export);
        assert_eq!(standings.get(export), None);
    }
}

//! Which part of the work is this process's: from the command line, else from the launcher's environment.

/// This process's number among those that share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// `0..world`.
    pub rank: u32,
    /// How many processes share the work.
    pub world: u32,
}

/// Launchers that number their processes: name, variable of the rank, variable of the world's size.
/// A Kubernetes Indexed Job tells only the index; its `completions` must be given with `--world`.
const LAUNCHERS: [(&str, &str, Option<&str>); 3] = [
    ("torchrun", "RANK", Some("WORLD_SIZE")),
    ("Slurm", "SLURM_PROCID", Some("SLURM_NTASKS")),
    ("a Kubernetes Indexed Job", "JOB_COMPLETION_INDEX", None),
];

impl Rank {
    /// A process alone.
    pub const ALONE: Rank = Rank { rank: 0, world: 1 };

    /// The rank given by `--rank` and `--world`, else by a launcher, else [`Rank::ALONE`]. `variable` looks up the environment.
    ///
    /// # Errors
    /// A sentence for the user when only one of the two is known, or they do not fit together.
    pub fn find(
        rank: Option<u32>,
        world: Option<u32>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Rank, String> {
        let number = |name: &str| -> Result<Option<u32>, String> {
            let Some(text) = variable(name) else { return Ok(None) };
            let parsed = text.trim().parse().map_err(|_| format!("the variable {name} is \"{text}\", not a number"))?;
            Ok(Some(parsed))
        };
        if let (Some(rank), Some(world)) = (rank, world) {
            return Rank { rank, world }.checked();
        }
        if rank.is_some() {
            return Err("--rank needs --world".to_owned());
        }
        for (launcher, rank_name, world_name) in LAUNCHERS {
            let Some(rank) = number(rank_name)? else { continue };
            let told = world_name.map_or(Ok(None), number)?;
            let Some(world) = world.or(told) else {
                return Err(format!("{launcher} says {rank_name}={rank} but not of how many; add --world"));
            };
            return Rank { rank, world }.checked();
        }
        match world {
            None | Some(1) => Ok(Rank::ALONE),
            Some(_) => Err("--world needs --rank, or a launcher that sets it".to_owned()),
        }
    }

    fn checked(self) -> Result<Rank, String> {
        if self.rank < self.world {
            return Ok(self);
        }
        Err(format!("rank {} of {} does not exist: ranks count from 0", self.rank, self.world))
    }

    /// Whether the item at `position` of the whole list is this process's: every `world`-th one is.
    pub fn owns(&self, position: usize) -> bool {
        position % self.world as usize == self.rank as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(rank: Option<u32>, world: Option<u32>, variables: &[(&str, &str)]) -> Result<Rank, String> {
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Rank::find(rank, world, lookup)
    }

    #[test]
    fn flags_win_over_launchers() {
        assert_eq!(find(None, None, &[]), Ok(Rank::ALONE));
        assert_eq!(find(Some(1), Some(3), &[("RANK", "7"), ("WORLD_SIZE", "8")]), Ok(Rank { rank: 1, world: 3 }));
        assert_eq!(find(None, None, &[("RANK", "7"), ("WORLD_SIZE", "8")]), Ok(Rank { rank: 7, world: 8 }));
        assert_eq!(find(None, None, &[("SLURM_PROCID", "2"), ("SLURM_NTASKS", "4")]), Ok(Rank { rank: 2, world: 4 }));
        assert_eq!(find(None, Some(5), &[("JOB_COMPLETION_INDEX", "4")]), Ok(Rank { rank: 4, world: 5 }));
    }

    #[test]
    fn half_an_answer_is_an_error() {
        assert!(find(Some(1), None, &[]).unwrap_err().contains("--world"));
        assert!(find(None, Some(2), &[]).unwrap_err().contains("--rank"));
        assert!(find(None, None, &[("JOB_COMPLETION_INDEX", "0")]).unwrap_err().contains("add --world"));
        assert!(find(Some(3), Some(3), &[]).unwrap_err().contains("count from 0"));
        assert!(find(None, None, &[("RANK", "x"), ("WORLD_SIZE", "2")]).unwrap_err().contains("not a number"));
    }

    #[test]
    fn every_position_has_one_owner() {
        for position in 0..20 {
            assert_eq!((0..3).filter(|&rank| Rank { rank, world: 3 }.owns(position)).count(), 1);
        }
    }
}

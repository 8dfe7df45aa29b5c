//! Who is special: slow readers, those who drop out in a storm, and those who write a room's history.

use super::Plan;
use crate::dice::Dice;

/// How many users write the history at most.
const HISTORIANS_MAX: usize = 100;

/// What is special about a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    Viewer,
    /// Drops out in the storm and comes back.
    Leaver,
    /// Reads slowly.
    Slow,
    /// Stops reading for good when traffic begins.
    Stalled,
}

impl Role {
    /// Whether the user does not read as it should.
    pub fn is_slow(self) -> bool {
        matches!(self, Self::Slow | Self::Stalled)
    }
}

/// The role of every user.
pub(super) fn assign(plan: &Plan) -> Vec<Role> {
    let scenario = &plan.shape.scenario;
    let mut roles = vec![Role::Viewer; plan.shape.users as usize];
    let mut dice = Dice::new(plan.shape.seed, u64::MAX, 1);
    let mut viewers = shuffled(plan, &mut dice, |user| plan.room_of(user) == 0);
    let members = viewers.len();
    for (share, role) in [(scenario.stalled_share, Role::Stalled), (scenario.slow_share, Role::Slow)] {
        give(&mut roles, &mut viewers, count(share, members), role);
    }
    let leaving = scenario.storm.map_or(0.0, |storm| storm.share);
    let mut staying =
        shuffled(plan, &mut dice, |user| !plan.is_pair(plan.room_of(user)) && !roles[user as usize].is_slow());
    let leavers = count(leaving, staying.len());
    give(&mut roles, &mut staying, leavers, Role::Leaver);
    roles
}

/// The first members of the largest room that read as they should.
pub(super) fn historians(plan: &Plan) -> Vec<u32> {
    let wanted = HISTORIANS_MAX.min(plan.shape.scenario.history as usize);
    let able = (0..plan.shape.users).filter(|&user| plan.room_of(user) == 0 && !plan.role_of(user).is_slow());
    able.take(wanted).collect()
}

/// So many of `of`; a share of more than nothing is at least one.
fn count(share: f64, of: usize) -> usize {
    if share > 0.0 { ((share * of as f64).round() as usize).clamp(1, of.max(1)) } else { 0 }
}

fn give(roles: &mut [Role], users: &mut Vec<u32>, count: usize, role: Role) {
    for user in users.drain(users.len().saturating_sub(count)..) {
        roles[user as usize] = role;
    }
}

fn shuffled(plan: &Plan, dice: &mut Dice, keep: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut users: Vec<u32> = (0..plan.shape.users).filter(|&user| keep(user)).collect();
    for last in (1..users.len()).rev() {
        users.swap(last, dice.below(last as u64 + 1) as usize);
    }
    users
}

#[cfg(test)]
mod tests {
    use crate::plan::tests::shape;
    use crate::plan::{Distribution, Plan, Role, Shape};
    use crate::scenario::{Scenario, Storm};

    fn plan(scenario: Scenario) -> Plan {
        Plan::new(Shape { scenario, ..shape(5_000, 2, Distribution::Zipf(1.0)) })
    }

    fn with(plan: &Plan, role: Role) -> Vec<u32> {
        (0..plan.shape.users).filter(|&user| plan.role_of(user) == role).collect()
    }

    #[test]
    fn pairs_are_rooms_of_two_beside_the_others() {
        let plan = plan(Scenario { pairs: 1_000, ..Scenario::default() });
        assert_eq!((plan.sizes.len(), plan.sizes[0], plan.sizes[1]), (1_002, 2_000, 1_000));
        assert!(plan.sizes[2..].iter().all(|&size| size == 2));
        let paired = (0..5_000).filter(|&user| plan.is_pair(plan.room_of(user))).count();
        assert_eq!(paired, 2_000);
        let squares = 2_000.0 * 2_000.0 + 1_000.0 * 1_000.0 + 1_000.0 * 4.0;
        assert!((plan.load().deliveries_per_s - squares / 60.0).abs() < 1.0, "{:?}", plan.load());
    }

    #[test]
    fn slow_readers_are_shares_of_the_largest_room_and_a_function_of_the_seed() {
        let scenario = Scenario { slow_share: 0.01, stalled_share: 0.0001, ..Scenario::default() };
        let (a, b) = (plan(scenario), plan(scenario));
        let (slow, stalled) = (with(&a, Role::Slow), with(&a, Role::Stalled));
        assert_eq!((slow.len(), stalled.len()), (33, 1));
        assert!(slow.iter().chain(&stalled).all(|&user| a.room_of(user) == 0));
        assert_eq!(slow, with(&b, Role::Slow));
        let other = Plan::new(Shape { seed: 2, ..a.shape.clone() });
        assert_ne!(slow, with(&other, Role::Slow));
    }

    #[test]
    fn who_drops_out_is_a_share_of_the_viewers_and_never_a_pair_or_a_slow_reader() {
        let storm = Some(Storm { share: 0.5, at_ns: 0, ramp: None });
        let plan = plan(Scenario { pairs: 500, slow_share: 0.1, storm, ..Scenario::default() });
        let (slow, leavers) = (with(&plan, Role::Slow).len(), with(&plan, Role::Leaver));
        assert_eq!((slow, leavers.len()), (267, (4_000 - 267_usize).div_ceil(2)));
        assert!(leavers.iter().all(|&user| !plan.is_pair(plan.room_of(user))));
    }

    #[test]
    fn the_history_has_as_many_lines_as_asked_for_by_able_readers_of_the_largest_room() {
        for lines in [0, 1, 7, 100, 250] {
            let plan = plan(Scenario { history: lines, slow_share: 0.5, ..Scenario::default() });
            let total: u32 = (0..5_000).map(|user| plan.history_of(user).len() as u32).sum();
            assert_eq!(total, lines);
            assert!(plan.historians.iter().all(|&user| plan.room_of(user) == 0 && !plan.role_of(user).is_slow()));
            assert!(plan.historians.iter().all(|&user| plan.intended_ns(user, plan.per_user) == u64::MAX));
        }
    }
}

//! Which step may start next. Pure: what a step does, and how long it takes, is not known here.
use bot_messages::pipeline::Step;

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// Succeeded or skipped: what needs it may start.
    Satisfied,
    Failed,
}

/// The order of steps that need one another, several at a time.
#[derive(Clone, Debug)]
pub struct Schedule {
    needs: Vec<Vec<usize>>,
    states: Vec<State>,
    parallel: usize,
    first_failed: Option<usize>,
}

impl Schedule {
    /// `needs[i]` are the steps, by their index, that have to be satisfied before `i` starts. At most `parallel` run at a
    /// time, and at least one.
    pub fn new(needs: Vec<Vec<usize>>, parallel: usize) -> Self {
        let states = vec![State::Waiting; needs.len()];
        Self { needs, states, parallel: parallel.max(1), first_failed: None }
    }

    /// Starts the first step that may start: none once one has failed.
    pub fn start_next(&mut self) -> Option<usize> {
        let running = self.states.iter().filter(|state| **state == State::Running).count();
        if self.first_failed.is_some() || running >= self.parallel {
            return None;
        }
        let may_start = |i: &usize| {
            let is_satisfied = |need: &usize| self.states.get(*need) == Some(&State::Satisfied);
            self.states[*i] == State::Waiting && self.needs[*i].iter().all(is_satisfied)
        };
        let next = (0..self.states.len()).find(may_start)?;
        self.states[next] = State::Running;
        Some(next)
    }

    /// It succeeded, or was skipped.
    pub fn satisfied(&mut self, step: usize) {
        self.end(step, State::Satisfied);
    }

    /// It failed. The first one stays known; what still runs is for the caller to stop.
    pub fn failed(&mut self, step: usize) {
        self.end(step, State::Failed);
        self.first_failed.get_or_insert(step);
    }

    /// The step that failed before any other did.
    pub fn first_failed(&self) -> Option<usize> {
        self.first_failed
    }

    /// How many have ended.
    pub fn ended(&self) -> usize {
        self.states.iter().filter(|state| matches!(state, State::Satisfied | State::Failed)).count()
    }

    fn end(&mut self, step: usize, state: State) {
        if let Some(own) = self.states.get_mut(step) {
            *own = state;
        }
    }
}

/// What each step needs, by index: what it says, or else the step before it.
pub fn needs_of(steps: &[Step]) -> Vec<Vec<usize>> {
    let by_name = |name: &String| steps.iter().position(|step| step.name == *name);
    let needs = steps.iter().enumerate().map(|(i, step)| match &step.needs {
        Some(names) => names.iter().filter_map(by_name).collect(),
        None => i.checked_sub(1).into_iter().collect(),
    });
    needs.collect()
}

#[cfg(test)]
mod tests {
    use bot_messages::pipeline::Pipeline;

    use super::*;

    fn schedule(steps: &str, parallel: usize) -> Schedule {
        let pipeline = Pipeline::parse(&format!("version: 1\nbuild: {{steps: [{steps}]}}\n")).unwrap();
        Schedule::new(needs_of(&pipeline.build.steps), parallel)
    }

    /// All that may start now.
    fn started(schedule: &mut Schedule) -> Vec<usize> {
        std::iter::from_fn(|| schedule.start_next()).collect()
    }

    #[test]
    fn without_needs_each_follows_the_one_before_it() {
        let mut chain = schedule("{name: a, run: x}, {name: b, run: x}, {name: c, run: x}", 8);
        for step in 0..3 {
            assert_eq!(started(&mut chain), [step]);
            chain.satisfied(step);
        }
        assert_eq!((started(&mut chain), chain.ended()), (vec![], 3));
    }

    #[test]
    fn what_needs_nothing_starts_at_once_and_what_needs_two_waits_for_both() {
        let steps =
            "{name: a, run: x}, {name: b, run: x, needs: []}, {name: c, run: x, needs: [b, a]}, {name: d, run: x}";
        let mut diamond = schedule(steps, 8);
        assert_eq!(started(&mut diamond), [0, 1]);
        diamond.satisfied(1);
        assert!(started(&mut diamond).is_empty());
        diamond.satisfied(0);
        assert_eq!(started(&mut diamond), [2]);
        diamond.satisfied(2);
        assert_eq!(started(&mut diamond), [3]);
    }

    #[test]
    fn no_more_than_allowed_run_at_a_time_and_one_always_does() {
        let free = |name: &str| format!("{{name: {name}, run: x, needs: []}}");
        let steps = ["a", "b", "c", "d"].map(free).join(", ");
        let mut two = schedule(&steps, 2);
        assert_eq!(started(&mut two), [0, 1]);
        two.satisfied(1);
        assert_eq!(started(&mut two), [2]);
        assert_eq!(started(&mut schedule(&steps, 0)), [0]);
    }

    #[test]
    fn after_a_failure_nothing_starts_and_the_first_is_remembered() {
        let mut both = schedule("{name: a, run: x}, {name: b, run: x, needs: []}, {name: c, run: x, needs: []}", 2);
        assert_eq!(started(&mut both), [0, 1]);
        both.failed(1);
        both.failed(0);
        assert_eq!((started(&mut both), both.first_failed()), (vec![], Some(1)));
    }
}

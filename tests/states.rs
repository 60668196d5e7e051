//! States: the function that says what may follow what, held against what the database does with a
//! task in each state when each event happens to it.

use crate::harness::{Rework, hello};
use rework::internals::{
    model::{
        MonitorId, OperationId, TaskId, Token, WorkerId,
        task::{Cause, Outcome, TaskEvent, TaskState, next_state},
    },
    store::{Cycle, Ended, Fate, Mark, Scan, Store},
};

/// Where a task is, told apart more finely than its state does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Situation {
    /// In the queue.
    Waiting,
    /// Claimed, and not begun.
    Claimed,
    /// Claimed, not begun, and to be aborted.
    Unwanted,
    Running,
    Aborting,
    Ended(Outcome),
}

const OUTCOMES: [Outcome; 3] = [Outcome::Done, Outcome::Failed, Outcome::Aborted];

impl Situation {
    fn state(self) -> TaskState {
        match self {
            Self::Waiting | Self::Claimed => TaskState::Queued,
            Self::Running => TaskState::Running,
            Self::Unwanted | Self::Aborting => TaskState::Aborting,
            Self::Ended(outcome) => outcome.as_str().parse().unwrap(),
        }
    }

    /// What can happen in it. To a task that nobody has claimed no monitor does anything.
    fn events(self) -> Vec<TaskEvent> {
        let claimed = self != Self::Waiting;
        let mut events = vec![TaskEvent::Abort { claimed }];
        if claimed {
            events.extend([TaskEvent::Begin, TaskEvent::Requeue]);
            events.extend(OUTCOMES.map(TaskEvent::End));
        }
        events
    }
}

/// A monitor without workers: it says what it is told to say.
struct Puppet<'a> {
    rework: &'a Rework,
    store: Store,
    monitor: MonitorId,
    cycle: u64,
    operation: OperationId,
    plugin_operation: i32,
}

impl Puppet<'_> {
    async fn say(&mut self, ended: Vec<Ended>, marks: Vec<Mark>, scans: Vec<Scan>) -> Vec<TaskId> {
        self.cycle += 1;
        let cycle = Cycle {
            monitor: self.monitor,
            number: self.cycle,
            ended,
            marks,
            logs: Vec::new(),
            finished_cycles: Vec::new(),
            scans,
        };
        let result = self.store.cycle(&cycle).await.unwrap();
        result.claimed.iter().map(|claimed| claimed.task).collect()
    }

    /// The only task in the queue; the claim's token.
    async fn claim(&mut self, task: TaskId) -> Token {
        let lane = self
            .rework
            .database
            .psql(&format!("select lane from rework.task where id = {task}"));
        let scan = Scan {
            lane: lane.parse().unwrap(),
            after: (i16::MIN, 0),
            last_rank: i16::MAX,
            pool: 0,
            quota: 10,
            turn: 0,
            most: 10,
        };
        assert_eq!(self.say(Vec::new(), Vec::new(), vec![scan]).await, [task]);
        Token::new(self.monitor, self.cycle)
    }

    async fn begin(&mut self, task: TaskId, token: Token) {
        let mark = Mark {
            task,
            attempt: 1,
            token,
            started: chrono::Utc::now(),
            worker: WorkerId(1),
            plugin_operation: self.plugin_operation,
            progress: None,
            progress_message: None,
        };
        self.say(Vec::new(), vec![mark], Vec::new()).await;
    }

    async fn end(&mut self, task: TaskId, token: Token, fate: Fate) {
        let ended = Ended {
            cause: match fate {
                Fate::End(Outcome::Done) | Fate::Release => None,
                Fate::End(Outcome::Failed) | Fate::Retry(_) => Some(Cause::Error),
                Fate::End(Outcome::Aborted) => Some(Cause::Crash),
            },
            operation: self.operation,
            plugin_operation: self.plugin_operation,
            ..Ended::new((task, 1), token, fate, chrono::Utc::now())
        };
        self.say(vec![ended], Vec::new(), Vec::new()).await;
    }

    /// A task in this situation, and its claim.
    async fn task(&mut self, situation: Situation) -> (TaskId, Token) {
        // Nobody else waits.
        self.rework
            .database
            .psql("delete from rework.ready; delete from rework.delayed");
        let id = self.rework.schedule(&["my_first_task", "--input", "1"]);
        let task = TaskId(id.parse().unwrap());
        if situation == Situation::Waiting {
            return (task, Token::new(self.monitor, self.cycle));
        }
        let token = self.claim(task).await;
        match situation {
            Situation::Waiting | Situation::Claimed => {}
            Situation::Unwanted => {
                self.store.task_abort(task, None).await.unwrap();
            }
            Situation::Running => self.begin(task, token).await,
            Situation::Aborting => {
                self.begin(task, token).await;
                self.store.task_abort(task, None).await.unwrap();
            }
            Situation::Ended(outcome) => self.end(task, token, Fate::End(outcome)).await,
        }
        assert_eq!(self.state(task), situation.state(), "{situation:?}");
        (task, token)
    }

    fn state(&self, task: TaskId) -> TaskState {
        let state = self.rework.database.psql(&format!(
            "select state from rework.task_view where id = {task}"
        ));
        state.parse().unwrap()
    }

    /// Lets an event happen, as whoever it comes from would.
    async fn happen(&mut self, situation: Situation, event: TaskEvent, task: TaskId, token: Token) {
        match (event, situation) {
            (TaskEvent::Begin, _) => self.begin(task, token).await,
            (TaskEvent::End(outcome), _) => self.end(task, token, Fate::End(outcome)).await,
            // What is not possible is refused, and changes nothing.
            (TaskEvent::Abort { .. }, _) => drop(self.store.task_abort(task, None).await),
            (TaskEvent::Requeue, Situation::Ended(_)) => {
                self.store.task_retry(task).await.unwrap();
            }
            (TaskEvent::Requeue, Situation::Waiting | Situation::Claimed | Situation::Unwanted) => {
                self.end(task, token, Fate::Release).await;
            }
            (TaskEvent::Requeue, Situation::Running | Situation::Aborting) => {
                self.end(task, token, Fate::Retry(0)).await;
            }
        }
    }
}

#[tokio::test]
async fn the_database_does_what_the_state_machine_says() {
    let rework = Rework::with_plugins(&[hello()]);
    let options = rework.database.url().parse().unwrap();
    let store = Store::connect(options, 1).await.unwrap();
    let monitor = store
        .monitor_start("testhost", 1, &[], &serde_json::json!({}), "/nowhere")
        .await
        .unwrap();
    let plugin_operation = rework
        .database
        .psql("select id from rework.plugin_operation where name = 'my_first_task'");
    let operation = rework
        .database
        .psql("select id from rework.operation where name = 'my_first_task'");
    let mut puppet = Puppet {
        rework: &rework,
        store,
        monitor,
        cycle: 0,
        operation: OperationId(operation.parse().unwrap()),
        plugin_operation: plugin_operation.parse().unwrap(),
    };
    let situations = [
        Situation::Waiting,
        Situation::Claimed,
        Situation::Unwanted,
        Situation::Running,
        Situation::Aborting,
    ];
    for situation in situations.into_iter().chain(OUTCOMES.map(Situation::Ended)) {
        for event in situation.events() {
            let (task, token) = puppet.task(situation).await;
            puppet.happen(situation, event, task, token).await;
            // What cannot happen changes nothing.
            let expected = next_state(situation.state(), event).unwrap_or(situation.state());
            assert_eq!(puppet.state(task), expected, "{situation:?}, {event:?}");
        }
    }
}

#[test]
fn no_row_is_in_a_state_that_does_not_exist() {
    let rework = Rework::with_plugins(&[hello()]);
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.ok(&["abort-task", &id]);
    for (change, constraint) in [
        ("outcome set outcome = 'lost'", "outcome_known"),
        (
            "outcome set outcome = null",
            "null value in column \"outcome\"",
        ),
        (
            "outcome set finished = null",
            "null value in column \"finished\"",
        ),
        (
            "outcome set outcome = 'failed', cause = null",
            "outcome_cause_iff_not_well",
        ),
        ("outcome set outcome = 'done'", "outcome_cause_iff_not_well"),
        ("outcome set attempt = -1", "outcome_attempt_known"),
        ("outcome set attempt = 0", "outcome_attempt_known"),
        ("task set max_attempts = 0", "task_max_attempts_positive"),
    ] {
        let refusal = rework
            .database
            .psql_error(&format!("update rework.{change}"));
        assert!(refusal.contains(constraint), "{change}: {refusal}");
    }
    // An attempt ends once, and a task runs once at a time.
    for (table, rows) in [
        ("outcome", "select * from rework.outcome"),
        (
            "running",
            "select 1, n, 1, 1, now() from generate_series(1, 2) n",
        ),
    ] {
        let refusal = rework
            .database
            .psql_error(&format!("insert into rework.{table} {rows}"));
        assert!(refusal.contains(&format!("{table}_pkey")), "{refusal}");
    }
}

//! Hears of the steps that verbs pass, and cuts at one of them.

use std::cell::RefCell;
use std::fmt::Debug;

use dmthin::graph::{STEP_TARGET, Step};
use dmthin::model::Model;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

thread_local! {
    static HEARD: RefCell<Heard> = RefCell::new(Heard::default());
}

/// What this thread's verbs have passed.
#[derive(Debug, Default)]
struct Heard {
    count: u64,
    cut_at: Option<(u64, Model)>,
    /// The log of the catalogue, to see which commits it has.
    log: Option<super::log::Log>,
    last: Option<Step>,
}

/// Begins a verb: steps are counted anew, and one may be the last.
pub(crate) fn begin(cut_at: Option<(u64, Model)>) {
    HEARD.with_borrow_mut(|heard| {
        heard.count = 0;
        heard.cut_at = cut_at;
    });
}

/// Watches another catalogue.
pub(crate) fn watch(log: Option<super::log::Log>) {
    HEARD.with_borrow_mut(|heard| heard.log = log);
}

/// Drops what a power cut may take of the catalogue.
pub(crate) fn lose_lazy() {
    HEARD.with_borrow_mut(|heard| {
        if let Some(log) = &mut heard.log {
            log.lose();
        }
    });
}

/// The subscriber.
pub(crate) struct Ears;

struct StepOf(Option<Step>);

impl Visit for StepOf {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "step" {
            self.0 = Step::ALL.iter().copied().find(|step| step.id() == value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

impl Subscriber for Ears {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == STEP_TARGET
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut step = StepOf(None);
        event.record(&mut step);
        let Some(step) = step.0 else {
            return;
        };
        let cut = HEARD.with_borrow_mut(|heard| {
            // A container that is larger than its image is made ready durably.
            let lazy = match step {
                Step::T3 | Step::D7 | Step::H3 => true,
                Step::C5 => heard.last != Some(Step::C4),
                _ => false,
            };
            if let Some(log) = &mut heard.log {
                log.look(lazy);
            }
            heard.last = Some(step);
            heard.count += 1;
            match &heard.cut_at {
                Some((at, model)) if *at + 1 == heard.count => Some(model.clone()),
                _ => None,
            }
        });
        if let Some(model) = cut {
            model.cut();
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

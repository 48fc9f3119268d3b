//! Every metric that the daemon has, declared once: name, kind, labels and help. docs/metrics.md is
//! written from here.

/// What a metric is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Times, in buckets.
    Histogram,
}

#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Full name, as scraped.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Its labels' names, separated by spaces.
    pub labels: &'static str,
    /// Its meaning.
    pub help: &'static str,
}

/// Metrics that belong together.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Heading in docs/metrics.md.
    pub title: &'static str,
    /// What its metrics have in common.
    pub about: &'static str,
    pub metrics: &'static [Metric],
}

macro_rules! declared {
    ($($title:literal, $about:literal {
        $($kind:ident $constant:ident $name:literal [$labels:literal] $help:literal)*
    })*) => {
        $($(pub(super) const $constant: &str = $name;)*)*
        /// All metrics, except the readings of the dynamics (`super::readings`).
        pub(crate) const GROUPS: &[Group] = &[$(Group {
            title: $title,
            about: $about,
            metrics: &[
                $(Metric { name: $name, kind: Kind::$kind, labels: $labels, help: $help }),*
            ],
        }),*];
    };
}

declared! {
    "Bins and messages", "What comes in, and what becomes of it." {
        Counter BINS_RECEIVED "regimed_bins_received_total" ["session"]
            "Bins received: each is accepted, late or rejected."
        Counter BINS "regimed_bins_total" ["session"]
            "Bins accepted: received less late and rejected."
        Counter BINS_PROCESSED "regimed_bins_processed_total" ["session"]
            "Bins accepted and done; the others wait (regimed_queue_bins)."
        Counter BINS_LATE "regimed_bins_late_total" ["session"]
            "Bins dropped as duplicates or too late."
        Counter BINS_REJECTED "regimed_bins_rejected_total" ["session reason"]
            "Bins rejected, by reason; overload is the session's queue being full."
        Counter BINS_MISSING "regimed_bins_missing_total" ["session"]
            "Bins missing from the sequence and predicted through."
        Counter ARTEFACTS "regimed_artefact_bins_total" ["session"]
            "Bins with far more counts than expected, taken for missing."
        Gauge SILENT "regimed_silent_channels" ["session"]
            "Channels that fell silent and do not inform until they fire again."
        Gauge QUEUE "regimed_queue_bins" ["session"]
            "Bins that wait for the session."
        Gauge QUEUE_MAX "regimed_queue_max_bins" ["session"]
            "Room for bins that wait: beyond it they are rejected."
        Counter STARTS "regimed_recording_starts_total" ["session"]
            "Recordings begun: a gap too long to predict through, or numbering restarted."
        Counter MESSAGES "regimed_messages_total" ["session outcome"]
            "Messages of counts or spikes over gRPC and ZeroMQ, by outcome: accepted or rejected."
        Counter REJECTED "regimed_messages_rejected_total" ["session reason"]
            "Messages rejected, by reason; without a session where it is not known."
        Counter EVENTS_RECEIVED "regimed_events_received_total" ["session"]
            "Spike events (or parts of bins) received: each is binned, late or rejected."
        Counter EVENTS_BINNED "regimed_events_binned_total" ["session"]
            "Spike events counted into bins."
        Counter EVENTS_LATE "regimed_events_late_total" ["session"]
            "Spike events whose bins had closed."
        Counter EVENTS_REJECTED "regimed_events_rejected_total" ["session reason"]
            "Spike events rejected, by reason."
    }
    "The rig", "Connections that the daemon makes, and the rig's clock." {
        Gauge SOURCE_CONNECTED "regimed_source_connected" ["session"]
            "1 while connected to a session's rig."
        Gauge STALLED "regimed_source_stalled" ["session"]
            "1 while nothing comes from a session's rig though something did."
        Counter SOURCE_CONNECTIONS "regimed_source_connections_total" ["session"]
            "Connections made to a session's rig."
        Counter SOURCE_MESSAGES "regimed_source_messages_total" ["session outcome"]
            "Messages of a session's rig, by outcome: taken, garbled or ignored."
        Counter MESSAGES_LOST "regimed_source_messages_lost_total" ["session"]
            "Messages of a source found missing by their numbers."
        Counter TTL_EDGES "regimed_ttl_edges_total" ["session line"]
            "TTL edges of a session's rig, by line."
        Gauge CLOCK_OFFSET "regimed_clock_offset_seconds" ["session"]
            "Our time less the rig's, with the least transport delay of late; NaN where not known."
        Gauge CLOCK_DRIFT "regimed_clock_drift_ratio" ["session"]
            "Seconds per second that the offset grows: positive where the rig's clock is slow; NaN \
             where not known."
        Counter CLOCK_JUMPS "regimed_clock_jumps_total" ["session"]
            "Times that the rig's clock was found set or restarted."
        Histogram TRANSPORT_DELAY "regimed_transport_delay_seconds" ["session"]
            "Rig's time of a message to receiving it, beyond the least such delay of late."
    }
    "Latency", "Buckets from 10 us to 100 ms." {
        Histogram LATENCY "regimed_latency_seconds" ["session"]
            "Bin received to decision made."
        Histogram END_TO_END "regimed_end_to_end_seconds" ["session"]
            "Bin received to decision handed to its subscribers."
        Histogram STAGE "regimed_stage_seconds" ["session stage"]
            "A bin's time by stage: queue (received to taken up), filter (filter bank and label), \
             publish (decision made to handed to its subscribers)."
    }
    "Regimes", "What the session makes of the counts." {
        Gauge POSTERIOR "regimed_regime_posterior" ["session regime"]
            "Posterior probability per regime, given that it is one of them."
        Gauge EXPERT_POSTERIOR "regimed_expert_posterior" ["session expert regime"]
            "Posterior probability per regime by each of the experts that are pooled."
        Gauge UNLABELLED "regimed_unlabelled_posterior" ["session"]
            "Posterior probability of dynamics that training saw without a label."
        Gauge IN_FORCE "regimed_regime_in_force" ["session regime"]
            "1 for the label in force, 0 for the others (unknown among them)."
        Counter CHANGES "regimed_regime_changes_total" ["session to"]
            "Regime changes, by the label they led to."
        Gauge NOVELTY "regimed_novelty" ["session"]
            "How unlike anything learned the dynamics are, smoothed: above 1 the label is unknown."
        Gauge EMBEDDING_SD "regimed_embedding_sd" ["session"]
            "Width of the task embedding's posterior: root mean square of its standard deviations."
        Gauge LOG_LIKELIHOOD "regimed_log_likelihood" ["session"]
            "One-step predictive log-likelihood, nats per channel and bin."
        Counter RESETS "regimed_filter_resets_total" ["session"]
            "Hypotheses that became non-finite and were restarted."
        Gauge PARTICIPATION "regimed_participation_ratio" ["session"]
            "Participation ratio of the log rates' covariance over the last seconds."
    }
    "Triggers", "What is done about regimes: docs/triggers.md." {
        Gauge TRIGGERS_ARMED "regimed_triggers_armed" ["session"]
            "1 while a session's triggers are armed."
        Counter TRIGGERS "regimed_triggers_total" ["session trigger outcome"]
            "Times that a trigger's condition was met while it was armed, by what became of it: \
             sent, dry_run, failed, late, refractory, daily_limit, disarmed or given_up (its \
             worker was busy)."
        Histogram TRIGGER "regimed_trigger_seconds" ["session trigger"]
            "Decision made to trigger sent."
    }
    "Sessions", "What each is doing." {
        Gauge SESSION_STATE "regimed_session_state" ["session state"]
            "1 for the state a session is in: running, paused or stopped."
        Gauge CALIBRATION "regimed_calibration_state" ["session state"]
            "1 for where a session stands with calibrating itself."
        Counter MODEL_SWAPS "regimed_model_swaps_total" ["session"]
            "Models swapped between two bins."
        Gauge CONDITION "regimed_condition" ["session condition"]
            "1 for what is wrong now, by condition and session (none: the daemon); \
             docs/operations.md has the cures."
    }
    "Subscribers", "Who receives decisions and events." {
        Gauge SUBSCRIBERS "regimed_subscribers" ["session"]
            "Subscribers to a session's decisions or events: gRPC, the page, Redis, and others \
             that the daemon serves from its bus."
        Counter LOST "regimed_decisions_lost_total" ["session"]
            "Decisions that a subscriber lost, for it was too slow."
        Gauge PAGE_VIEWERS "regimed_page_viewers" [""]
            "Viewers of the live page."
        Gauge OUT_CONNECTED "regimed_bus_out_connected" ["session"]
            "1 while connected to a session's Redis stream."
        Counter OUT_SENT "regimed_bus_out_entries_total" ["session kind"]
            "Entries written to a session's Redis stream, by kind: decision or event."
        Counter OUT_LOST "regimed_bus_out_lost_total" ["session"]
            "Decisions not written to a session's Redis stream."
        Counter CONNECTIONS_CUT "regimed_connections_cut_total" ["reason"]
            "Connections cut or not let in, by reason."
        Counter GIVEN_UP "regimed_messages_given_up_total" ["reason"]
            "Messages that had begun and were given up: not whole in time, or no room for more \
             such messages."
        Counter DENIED "regimed_requests_denied_total" ["reason"]
            "Requests denied for their token, by reason."
    }
    "Journal", "Logs: journal, and decisions where these are recorded." {
        Counter JOURNAL_RECORDS "regimed_journal_records_total" ["log"]
            "Records kept."
        Counter JOURNAL_DROPPED "regimed_journal_dropped_total" ["log"]
            "Records dropped because too many waited for a disk that fails."
        Counter JOURNAL_FAILURES "regimed_journal_failures_total" ["log"]
            "Failed attempts to write to the disk."
        Gauge JOURNAL_WAITING "regimed_journal_waiting_records" ["log"]
            "Records that wait to be kept."
        Gauge JOURNAL_BYTES "regimed_journal_bytes" ["log"]
            "Size on disk."
        Gauge JOURNAL_FAILING "regimed_journal_failing" ["log"]
            "1 while the disk fails."
        Histogram JOURNAL_COMMIT "regimed_journal_commit_seconds" ["log"]
            "Time to keep a group of records: written, and synced where the configuration says so."
    }
    "Log", "Lines on standard error." {
        Counter LOG_LOST "regimed_log_lines_lost_total" [""]
            "Lines of the log that were lost: standard error was full, slow or closed."
    }
    "Build", "What runs." {
        Gauge BUILD_INFO "regimed_build_info" ["version commit"]
            "1; the labels say what was built."
    }
}

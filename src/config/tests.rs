//! Proves what becomes of arguments, variables and files as a whole.
//!
//! **Invariants.** None of its own.
//! **Not here.** One file's own tests, which stand in it.

use std::num::NonZeroU16;

use super::environment::tests::Directory;
use super::*;
use crate::policy::access::Egress;
use crate::policy::port_id::Transport;

fn parsed(arguments: &[&str], variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Invocation, ConfigError> {
    let directory = Directory::with(files);
    let arguments = ["dispatch"].iter().chain(arguments).map(OsString::from);
    Invocation::parse(arguments, &directory.environment(variables))
}

fn config(arguments: &[&str], variables: &[(&str, &str)], files: &[(&str, &str)]) -> Config {
    match parsed(arguments, variables, files).unwrap() {
        Invocation::Serve(loaded, _) => loaded.config,
        other => panic!("not served: {other:?}"),
    }
}

fn line(arguments: &[&str], variables: &[(&str, &str)], files: &[(&str, &str)]) -> String {
    let line = parsed(arguments, variables, files).unwrap_err().to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let config = config(&[], &[], &[]);
    assert_eq!(config.api_address.to_string(), "127.0.0.1:3000");
    assert!(config.shards >= 1);
    assert_eq!((config.pin, config.log_format, config.log_filter.as_deref()), (Switch::On, LogFormat::Readable, None));
    let limits = config.limits;
    assert_eq!((limits.request_head_bytes_max, limits.message_bytes_max), (65_536, 1_048_576));
    assert_eq!((limits.outbox_bytes_max, limits.write_window_bytes_max), (262_144, 262_144));
    assert_eq!((limits.receive_buffers, limits.receive_buffer_bytes, limits.ring_entries), (1_024, 4_096, 1_024));
    let times = [
        limits.request_head_time_max,
        limits.stall_time_max,
        limits.credit_wait_max,
        limits.flush_time_max,
        limits.ping_interval,
        limits.driver_silence_max,
        limits.device_keepalive,
        limits.device_user_timeout,
        limits.linger_time_max,
        limits.drain_time_max,
    ];
    let seconds = times.map(|time| time.as_secs());
    assert_eq!(seconds, [10, 20, 8, 8, 30, 75, 10, 120, 2, 10]);
    assert_eq!(limits.devices_max, 0);
    assert_eq!([limits.devices_per_port_max, limits.sessions_max, limits.ports_max], [usize::MAX; 3]);
}

#[test]
fn of_the_time_for_the_end_there_is_some_for_the_log_and_some_for_the_exit() {
    for ms in ["10", "1000", "10000"] {
        let limits = config(&["--drain-ms-max", ms], &[], &[]).limits;
        let times = [limits.delivery_time_max(), limits.log_time_max(), limits.drain_time_max];
        assert!(times.is_sorted_by(|one, next| one < next), "{times:?}");
        assert!(limits.delivery_time_max() >= limits.drain_time_max / 2);
    }
}

#[test]
fn a_flag_goes_before_its_variable_and_a_variable_before_its_file() {
    let variables = [("SG_SERVER_PORT", "2"), ("DISPATCH_PORTS_MAX", "5")];
    let files = [("SG_SERVER_PORT", "3\n"), ("DISPATCH_PORTS_MAX", "6\n"), ("DISPATCH_STALL_MS_MAX", "700\n")];
    assert_eq!(config(&["-p", "1"], &variables, &files).api_address.port(), 1);
    let config = config(&[], &variables, &files);
    assert_eq!((config.api_address.port(), config.limits.ports_max), (2, 5));
    assert_eq!(config.limits.stall_time_max.as_millis(), 700);
}

#[test]
fn an_empty_variable_hides_nothing_behind_it() {
    let (variables, files) = ([("DISPATCH_ALLOW_PORTS", "")], [("DISPATCH_ALLOW_PORTS", "6001\n")]);
    let access = config(&[], &variables, &files).access;
    let allows = |number| access.ports.contains(NonZeroU16::new(number).unwrap());
    assert!(allows(6001) && !allows(6002));
}

#[test]
fn the_usual_image_starts_with_its_name_repeated() {
    let config = config(&["/dispatch", "-b", "0.0.0.0", "-p", "8080"], &[], &[]);
    assert_eq!(config.api_address.to_string(), "0.0.0.0:8080");
    assert!(matches!(parsed(&["dispatch", "-v"], &[], &[]), Ok(Invocation::Version)));
}

#[test]
fn an_action_looks_at_the_command_line_only() {
    let broken = [("SG_SERVER_PORT", "none"), ("SERVER_SECRET", "")];
    assert!(matches!(parsed(&["-v"], &broken, &[]), Ok(Invocation::Version)));
    assert!(matches!(parsed(&["-r"], &broken, &[]), Ok(Invocation::Routes)));
    assert!(matches!(parsed(&["-d"], &broken, &[]), Ok(Invocation::Document)));
    assert!(matches!(parsed(&["-c", "http://localhost/"], &broken, &[]), Ok(Invocation::Health(_))));
    let Ok(Invocation::Help(help)) = parsed(&["-h"], &broken, &[]) else { panic!("no help") };
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("[env: SG_SERVER_PORT]") && help.contains("[default: 3000]"), "{help}");
    assert!(line(&["-v", "-r"], &[], &[]).contains("cannot be used with"));
}

#[test]
fn a_bad_value_is_one_line_that_names_the_setting_and_where_it_was_found() {
    let flag = line(&["-p", "65536"], &[], &[]);
    assert_eq!(flag, "-p/--port (SG_SERVER_PORT): \"65536\" is not accepted: 65536 is not in 1..=65535");
    let variable = line(&[], &[("DISPATCH_STALL_MS_MAX", "soon\nor later")], &[]);
    assert!(variable.starts_with("--stall-ms-max (DISPATCH_STALL_MS_MAX): \"soon\\nor later\" from the environment"));
    let file = line(&[], &[], &[("DISPATCH_PIN", "maybe")]);
    assert!(file.starts_with("--pin (DISPATCH_PIN): \"maybe\" from the file /"), "{file}");
    assert!(file.ends_with("it must be one of on, off"), "{file}");
    assert!(line(&["--no-such-flag"], &[], &[]).contains("--no-such-flag"));
    for (flag, usage) in
        [("-p", "--port <PORT>"), ("--config", "--config <FILE>"), ("--udp-egress", "--udp-egress <RULE>")]
    {
        let lacking = line(&[flag], &[("DISPATCH_PORTS_MAX", "1")], &[]);
        assert!(lacking.starts_with(&format!("a value is required for '{usage}'")), "{lacking}");
    }
    assert!(line(&["-c"], &[], &[]).starts_with("a value is required for '--curl <URL>'"));
    assert!(line(&["-b", "no such host"], &[], &[]).starts_with("-b/--host (SG_SERVER_HOST): "));
}

#[test]
fn bounds_that_contradict_each_other_are_refused() {
    let silence = line(&["--ping-interval-ms", "1000"], &[("DISPATCH_DRIVER_SILENCE_MS_MAX", "1000")], &[]);
    assert!(silence.starts_with("--driver-silence-ms-max (DISPATCH_DRIVER_SILENCE_MS_MAX): "), "{silence}");
    // What two bounds of a driver take, without its own buffers.
    let memory = line(&["--session-memory-bytes-max", "524288"], &[], &[]);
    assert!(memory.starts_with("--session-memory-bytes-max ("), "{memory}");
    assert!(memory.contains("--outbox-bytes-max") && memory.contains("--write-window-bytes-max"), "{memory}");
    for (flag, below) in [("--message-bytes-max", "131071"), ("--outbox-bytes-max", "204799")] {
        assert!(line(&[flag, below], &[], &[]).starts_with(flag));
    }
}

#[test]
fn a_takeover_needs_to_know_where() {
    let none = config(&[], &[], &[]).upgrades;
    assert_eq!((none.takeover, none.socket), (Switch::Off, None));
    let taking = config(&["--takeover"], &[("DISPATCH_TAKEOVER_SOCKET", "/run/d")], &[]).upgrades;
    assert_eq!((taking.takeover, taking.socket), (Switch::On, Some(PathBuf::from("/run/d"))));
    let refused = line(&["--takeover"], &[], &[]);
    assert!(refused.starts_with("--takeover (DISPATCH_TAKEOVER): needs --takeover-socket"), "{refused}");
}

#[test]
fn metrics_need_the_token_and_show_ports_unless_it_is_said() {
    let usual = Observation { metrics_open: false, port_series: true };
    assert_eq!(config(&[], &[], &[]).observation, usual);
    let open = Observation { metrics_open: true, ..usual };
    assert_eq!(config(&["--metrics-open"], &[], &[]).observation, open);
    assert_eq!(config(&["--metrics-open", "on", "-w", "1"], &[], &[]).observation, open);
    assert_eq!(config(&[], &[("DISPATCH_METRICS_OPEN", "on")], &[]).observation, open);
    let few = Observation { port_series: false, ..usual };
    assert_eq!(config(&["--metrics-ports", "off"], &[], &[]).observation, few);
}

#[test]
fn production_logs_json_and_needs_a_secret_of_its_own() {
    let production = ("SG_ENV", "production");
    let refused = line(&[], &[production], &[]);
    assert!(refused.contains("PLACE_SERVER_SECRET") && refused.contains("SG_ENV"), "{refused}");
    let own = config(&[], &[production, ("SERVER_SECRET", "hunter2")], &[]);
    assert_eq!((own.log_format, own.warning()), (LogFormat::Json, None));
    assert!(!format!("{own:?}").contains("hunter2"));
    let on_purpose = config(&[], &[production, ("SERVER_SECRET", "testing")], &[]);
    assert!(on_purpose.warning().is_some());
}

#[test]
fn what_drivers_may_do_is_everything_unless_it_is_said() {
    let everything = config(&[], &[], &[]).access;
    let port = |number| NonZeroU16::new(number).unwrap();
    assert!(everything.ports.contains(port(1)) && everything.ports.contains(port(65_535)));
    assert!(everything.sources.accepts([10, 0, 0, 1].into()) && everything.sources.accepts([1u16; 8].into()));
    assert_eq!((everything.udp_egress, everything.api_port), (Egress::Any, 3_000));
    let variables = [("DISPATCH_ALLOW_PORTS", "161, 2000-2999"), ("DISPATCH_ALLOW_SOURCES", "10.0.0.0/8")];
    let some = config(&["--udp-egress", "accepted", "-p", "8080"], &variables, &[]).access;
    assert!(some.ports.contains(port(161)) && !some.ports.contains(port(162)));
    assert!(!some.sources.accepts([11, 0, 0, 1].into()));
    assert_eq!((some.udp_egress, some.api_port), (Egress::Accepted, 8_080));
    for (flag, value, part) in [
        ("--allow-ports", "5-3", "ends before it begins"),
        ("--allow-sources", "10.0.0.300", "neither an address"),
        ("--udp-egress", "all", "one of any, accepted"),
    ] {
        let refused = line(&[flag, value], &[], &[]);
        assert!(refused.starts_with(&format!("{flag} (DISPATCH_")) && refused.contains(part), "{refused}");
    }
}

#[test]
fn devices_live_as_long_as_they_wish_unless_it_is_said() {
    let config_of = |arguments: &[&str]| config(arguments, &[], &[]);
    let usual = config_of(&[]);
    assert!(usual.device_rules.end_none() && usual.device_rules.replacing.is_none());
    let limits = usual.limits;
    assert_eq!(
        [limits.devices_per_source_max, limits.source_connects_per_second_max, limits.sessions_per_token_max],
        [usize::MAX; 3]
    );
    assert_eq!(limits.source_refused_time.as_secs(), 60);
    let port = |number| NonZeroU16::new(number).unwrap();
    let rules = config_of(&["--device-idle-seconds-max", "6001=60,600", "--replace-devices", "2000-2999"]);
    let rules = rules.device_rules;
    assert_eq!([6_001, 1].map(|number| rules.idle.of(port(number)).unwrap().get()), [60, 600]);
    assert!(rules.age.is_none() && rules.replacing.unwrap().contains(port(2_500)));
    for (flag, value, part) in [
        ("--device-idle-seconds-max", "soon", "neither a number of seconds nor PORTS=SECONDS"),
        ("--device-age-seconds-max", "5,1=2", "comes last"),
        ("--replace-devices", "all", "nor a range of ports"),
    ] {
        let refused = line(&[flag, value], &[], &[]);
        assert!(refused.starts_with(&format!("{flag} (DISPATCH_")) && refused.contains(part), "{refused}");
    }
}

#[test]
fn nobody_is_believed_unless_it_is_said() {
    let flags = ["--proxy-from", "--device-proxy-from", "--forwarded-from"];
    assert_eq!(config(&[], &[], &[]).balancers, Balancers::default());
    for (at, flag) in flags.into_iter().enumerate() {
        let balancers = config(&[flag, "10.0.0.1,fd00::/8"], &[], &[]).balancers;
        let lists = [balancers.api, balancers.devices, balancers.forwarding];
        let has: Vec<bool> = lists.iter().map(|list| list.has([10, 0, 0, 1].into())).collect();
        assert_eq!(has, [0, 1, 2].map(|list| list == at), "{flag}");
        let refused = line(&[flag, "balancer"], &[], &[]);
        assert!(refused.starts_with(&format!("{flag} (DISPATCH_")) && refused.contains("neither an address"));
    }
}

#[test]
fn a_bad_log_filter_is_refused_at_start() {
    let refused = line(&[], &[("LOG_LEVEL", "verbose")], &[]);
    assert!(refused.starts_with("--log-level (LOG_LEVEL): \"verbose\""), "{refused}");
    let filter = config(&[], &[("LOG_LEVEL", "info,uring_dispatch::edge=trace")], &[]).log_filter;
    assert_eq!(filter.as_deref(), Some("info,uring_dispatch::edge=trace"));
}

#[test]
fn the_terminals_driver_finds_the_daemons_secret() {
    let invocation = parsed(&["listen", "udp", "162", "--accept", "10.0.0.0/8"], &[], &[("SERVER_SECRET", "s\n")]);
    let Ok(Invocation::Listen(options)) = invocation else { panic!("no driver") };
    assert_eq!((options.arguments.transport, options.arguments.port), (Transport::Udp, 162));
    assert_eq!((options.arguments.accept.as_str(), options.token.expose()), ("10.0.0.0/8", "s"));
    assert!(line(&["listen", "sctp", "1"], &[], &[]).contains("a transport is tcp or udp"));
    assert!(line(&["listen", "tcp"], &[], &[]).contains("<PORT>"));
    assert!(line(&["listen", "tcp", "0"], &[], &[]).contains("1..=65535"));
}

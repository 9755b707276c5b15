//! The real program and its configuration file: where it is looked for, what `check-config` prints, and what is refused.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
// The clippy bans are for the threads of shards.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

// The harness of the behaviour tests, of which some is not needed here.
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "behaviour/harness/mod.rs"]
mod harness;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use harness::Run;

/// A folder of its own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dispatch-check-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        files.iter().for_each(|(name, text)| fs::write(path.join(name), text).unwrap());
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a check prints, which finds nothing wrong.
fn checked(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let run = Run::binary(&[&["check-config"], arguments].concat(), variables);
    assert!(run.status.success(), "{arguments:?} {variables:?}: {run:?}");
    run.stdout
}

/// The one line of a start and of a check that are refused, which is the same.
fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let [check, start] = [["check-config"].as_slice(), &[]].map(|words| {
        let run = Run::binary(&[words, arguments].concat(), variables);
        assert_eq!((run.status.code(), run.stdout.as_str()), (Some(2), ""), "{run:?}");
        run.stderr
    });
    assert_eq!(check, start);
    assert_eq!(check.lines().count(), 1, "{check}");
    check.strip_prefix("dispatch: ").unwrap().trim_end().to_owned()
}

/// The line of a setting without the blanks that align it.
fn line(printed: &str, name: &str) -> String {
    let is_it = |line: &&str| line.trim_start_matches("# ").split(' ').next() == Some(name);
    let line = printed.lines().find(is_it).unwrap_or_else(|| panic!("no {name} in {printed}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_check_prints_every_setting_with_its_value_unit_and_origin() {
    let folder = Folder::with(&[
        ("d.toml", "stall_ms_max = 5_000\nallow_ports = ['161', '2000-2999']\nport = 1\nports_max = 1\n"),
        ("DISPATCH_PORTS_MAX", "7\n"),
    ]);
    let (config, secrets) = (folder.path("d.toml"), folder.0.to_str().unwrap());
    let variables = [("SG_SERVER_PORT", "8080"), ("SECRETS_PATH", secrets), ("DISPATCH_CONFIG", &config)];
    let printed = checked(&["--workers", "3"], &variables);
    for (name, expected) in [
        ("config", format!("# config = \"{config}\" # DISPATCH_CONFIG")),
        ("host", "host = \"127.0.0.1\" # default".to_owned()),
        ("port", "port = 8080 # SG_SERVER_PORT".to_owned()),
        ("workers", "workers = 3 # --workers".to_owned()),
        ("ports_max", format!("ports_max = 7 # {}", folder.path("DISPATCH_PORTS_MAX"))),
        ("stall_ms_max", format!("stall_ms_max = 5000 # ms, {config}:1")),
        ("allow_ports", format!("allow_ports = [\"161\", \"2000-2999\"] # {config}:2")),
        ("outbox_bytes_max", "outbox_bytes_max = 262144 # bytes, default".to_owned()),
        ("log_level", "log_level = \"debug\" # default".to_owned()),
        ("server_secret", "# server_secret = \"********\" # default".to_owned()),
        ("server_secret_next", "# server_secret_next is not set # default".to_owned()),
        ("secrets_path", format!("secrets_path = \"{secrets}\" # SECRETS_PATH")),
    ] {
        assert_eq!(line(&printed, name), expected);
    }
    let settings = uring_dispatch::config::settings();
    let keys = settings.iter().filter_map(|setting| setting.key.as_deref());
    assert!(keys.clone().count() > 30);
    keys.for_each(|key| drop(line(&printed, key)));
    assert!(
        line(&checked(&["--environment", "production"], &[("SERVER_SECRET", "own")]), "log_level").contains("\"info\"")
    );
}

#[test]
fn a_check_as_json_has_the_same() {
    let folder = Folder::with(&[("d.toml", "\nstall_ms_max = 5000\nserver_secret = 'sesame'\n")]);
    let config = folder.path("d.toml");
    let printed = checked(&["--config", &config, "--json", "-p", "8080"], &[]);
    let document: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let settings = document["settings"].as_array().unwrap();
    let of = |name: &str| settings.iter().find(|setting| setting["setting"] == name).unwrap();
    let stall = of("stall_ms_max");
    assert_eq!(
        (&stall["value"], &stall["unit"], &stall["origin"]),
        (&5000.into(), &"ms".into(), &"config_file".into())
    );
    assert_eq!((&stall["from"], &stall["line"]), (&format!("{config}:2").into(), &2.into()));
    assert_eq!((&of("port")["value"], &of("port")["from"]), (&8080.into(), &"--port".into()));
    assert_eq!((&of("server_secret")["value"], &of("server_secret")["line"]), (&"********".into(), &3.into()));
    assert!(of("server_secret_next")["value"].is_null() && of("host")["unit"].is_null());
}

#[test]
fn a_secret_is_masked_wherever_it_comes_from() {
    let folder =
        Folder::with(&[("d.toml", "server_secret = 'sesame-of-file'\n"), ("SERVER_SECRET_NEXT", "sesame-of-folder")]);
    let (config, secrets) = (folder.path("d.toml"), folder.0.to_str().unwrap());
    for form in [[].as_slice(), &["--json"]] {
        let variables = [("SECRETS_PATH", secrets), ("DISPATCH_CONFIG", &config)];
        let run = Run::binary(&[&["check-config"], form].concat(), &variables);
        let printed = run.stdout + &run.stderr;
        assert!(run.status.success() && printed.contains("********") && !printed.contains("sesame"), "{printed}");
        assert!(printed.contains(&format!("{config}:1")) && printed.contains("SERVER_SECRET_NEXT"), "{printed}");
    }
}

#[test]
fn an_unknown_key_names_its_line_and_column_and_the_nearest() {
    let folder = Folder::with(&[("d.toml", "# drivers\nport = 8080\n stal_ms_max = 5000\n")]);
    let config = folder.path("d.toml");
    let line = refused(&["--config", &config], &[]);
    assert_eq!(
        line,
        format!("{config}, line 3, column 2: there is no setting \"stal_ms_max\"; the nearest is stall_ms_max")
    );
}

#[test]
fn a_bad_value_names_its_line_and_column() {
    for (text, setting, place) in [
        ("port = 70000\n", "-p/--port (SG_SERVER_PORT)", "line 1, column 8"),
        ("\npin = 'maybe'\n", "--pin (DISPATCH_PIN)", "line 2, column 7"),
        ("allow_sources = ['10.0.0.0/8', 'here']\n", "--allow-sources (DISPATCH_ALLOW_SOURCES)", "line 1, column 32"),
        ("host = 1.5\n", "host cannot be a number with a fraction", "line 1, column 8"),
        ("port = \n", "", "line 1, column"),
        ("[drivers]\n", "\"drivers\" begins a section", "line 1, column 2"),
        ("server_secret = ''\n", "server_secret: ", "line 1, column 17"),
        ("driver_silence_ms_max = 300\n", "--driver-silence-ms-max (DISPATCH_DRIVER_SILENCE_MS_MAX)", ""),
    ] {
        let folder = Folder::with(&[("d.toml", text)]);
        let line = refused(&["--config", &folder.path("d.toml")], &[]);
        assert!(line.contains(setting) && line.contains(place), "{line}");
    }
}

#[test]
fn a_file_that_is_named_has_to_be_there_and_readable() {
    let folder = Folder::with(&[("d.toml", "")]);
    let (absent, directory) = (folder.path("absent.toml"), folder.0.to_str().unwrap());
    for path in [absent.as_str(), directory] {
        for line in [refused(&["--config", path], &[]), refused(&[], &[("DISPATCH_CONFIG", path)])] {
            assert!(line.starts_with(&format!("--config (DISPATCH_CONFIG): \"{path}\" cannot be read: ")), "{line}");
        }
    }
    fs::write(folder.path("d.toml"), "# long\n".repeat(200_000)).unwrap();
    assert!(refused(&["--config", &folder.path("d.toml")], &[]).contains("longer than"));
}

#[test]
fn a_file_that_nobody_names_is_looked_for_where_systemd_says() {
    let (first, second) = (Folder::with(&[]), Folder::with(&[("dispatch.toml", "port = 1002\n")]));
    let folders = format!("{}:{}", first.0.display(), second.0.display());
    let port = |variables: &[(&str, &str)]| line(&checked(&[], variables), "port");
    let searched = [("CONFIGURATION_DIRECTORY", folders.as_str())];
    assert_eq!(port(&searched), format!("port = 1002 # {}:1", second.path("dispatch.toml")));
    fs::write(first.path("dispatch.toml"), "port = 1001\n").unwrap();
    assert_eq!(port(&searched), format!("port = 1001 # {}:1", first.path("dispatch.toml")));
    let named = Folder::with(&[("d.toml", "port = 1003\n")]);
    let config = named.path("d.toml");
    assert_eq!(port(&[searched[0], ("DISPATCH_CONFIG", &config)]), format!("port = 1003 # {config}:1"));
    // A variable that is empty names none.
    assert_eq!(
        port(&[searched[0], ("DISPATCH_CONFIG", "")]),
        format!("port = 1001 # {}:1", first.path("dispatch.toml"))
    );
    assert_eq!(port(&[]), "port = 3000 # default");
}

#[test]
fn the_help_names_the_file_and_where_it_is_looked_for() {
    for arguments in [["--help"].as_slice(), &["check-config", "--help"]] {
        let run = Run::binary(arguments, &[]);
        let help = run.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in
            ["--config <FILE>", "/etc/dispatch/dispatch.toml", "CONFIGURATION_DIRECTORY", "[env: DISPATCH_CONFIG]"]
        {
            assert!(run.status.success() && help.contains(part), "{part}\n{help}");
        }
    }
}

#[test]
fn a_check_takes_the_flags_of_the_daemon_and_no_actions() {
    assert_eq!(line(&checked(&["-b", "::1", "--pin", "off"], &[]), "host"), "host = \"::1\" # --host");
    for arguments in [["check-config", "-v"].as_slice(), &["check-config", "listen"], &["-p", "1", "check-config"]] {
        assert_eq!(Run::binary(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
    assert!(refused(&["--frobnicate"], &[]).contains("--frobnicate"));
    assert!(refused(&[], &[("SG_ENV", "production")]).starts_with("PLACE_SERVER_SECRET: no secret is set"));
}

#[test]
fn a_secret_that_anyone_may_read_is_warned_of_beside_the_settings() {
    let folder = Folder::with(&[("d.toml", "server_secret = 'own'\n")]);
    let config = folder.path("d.toml");
    let warned = |mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&config, permissions).unwrap();
        let run = Run::binary(&["check-config", "--config", &config], &[]);
        assert!(run.status.success());
        run.stderr
    };
    let warning = warned(0o644);
    assert!(
        warning.starts_with(&format!("dispatch: {config} holds a secret")) && warning.lines().count() == 1,
        "{warning}"
    );
    assert_eq!(warned(0o600), "");
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let folder = Folder::with(&[("d.toml", "\u{feff}port = 0x\r\n")]);
    let path = folder.path("d.toml");
    let refusal = refused(&["--config", &path], &[]);
    assert!(refusal.contains(", line 1, column 8"), "{refusal}");
    fs::write(&path, "\u{feff}port = 1001\r\n").unwrap();
    assert_eq!(line(&checked(&["--config", &path], &[]), "port"), format!("port = 1001 # {path}:1"));
}

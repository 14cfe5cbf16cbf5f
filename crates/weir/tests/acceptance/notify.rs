//! Events of checks are told: at least once, in their order, across servers that die and processes that are killed.

use serde_json::Value;

use super::support::{Mood, Project, Receiver};

fn project(settings: &str) -> Project {
    let project = Project::with_settings(settings);
    project.write(
        "sources/orders.toml",
        "kind = \"files\"\npath = \"in/*.json\"\nsettle = \"0 seconds\"\nkey = [\"id\"]\n\
         [columns]\nid = \"BIGINT\"\namount = \"BIGINT\"\n",
    );
    project.write("checks/negative.sql", "SELECT id FROM orders WHERE amount < 0\n");
    project.write("checks/large.sql", "-- weir: notify = []\nSELECT id FROM orders WHERE amount > 100\n");
    project.write("in/1.json", "{\"id\":1,\"amount\":500}\n");
    project
}

/// The next file: the amount of order 2.
fn order(project: &Project, file: u32, amount: i64) {
    project.write(&format!("in/{file}.json"), format!("{{\"id\":2,\"amount\":{amount}}}\n"));
}

fn kinds(messages: &[Value]) -> Vec<String> {
    let mut told: Vec<(String, String)> = Vec::new();
    for message in messages {
        let (id, kind) = (message["id"].to_string(), message["event"].as_str().unwrap_or_default().to_owned());
        // What is told again has the same id.
        if !told.iter().any(|(of, _)| *of == id) {
            told.push((id, kind));
        }
    }
    told.into_iter().map(|(_, kind)| kind).collect()
}

#[test]
fn no_event_is_lost_when_the_server_dies_and_the_process_is_killed() {
    let receiver = Receiver::start();
    let settings = "[checks]\nwebhook = \"${env:HOOK}\"\n";
    let project = project(settings);
    let url = format!("http://{}/hook?token=very-secret", receiver.address());
    let start = || {
        let mut running = super::support::Running::start(project.command(&["run"]).env("HOOK", &url));
        running.wait_for_line("running");
        running
    };
    let mut running = start();
    order(&project, 2, -1);
    running.wait_until("it is told", || !receiver.taken().is_empty());
    let first = receiver.taken()[0].clone();
    assert_eq!(
        (&first["event"], &first["check"], &first["rows"]),
        (&"opened".into(), &"checks.negative".into(), &1.into())
    );
    assert_eq!((&first["severity"], first["project"].is_string()), (&"error".into(), true));

    // It reads the next one and dies: it has to be told again.
    receiver.set(Mood::Die);
    project.weir_ok(&["checks", "waive", "negative", "--by", "ann", "--why", "known"]);
    running.wait_until("the server died in the middle", || receiver.read().iter().any(|(_, mood)| *mood == Mood::Die));
    receiver.set(Mood::Refuse);
    running.wait_until("it was told again", || receiver.read().iter().any(|(_, mood)| *mood == Mood::Refuse));
    let status = project.weir_ok(&["status"]);
    assert!(status.contains("webhook") && !status.contains("very-secret"), "{status}");
    let address = receiver.address();
    let before = receiver.taken();
    drop(receiver);

    // Nobody listens; what happens meanwhile waits, also over a kill.
    order(&project, 3, 1);
    running.wait_until("it is clear", || {
        project.value("SELECT state FROM weir.checks WHERE name = 'checks.negative'") == "clear"
    });
    let printed = running.kill();
    assert!(!printed.contains("very-secret"), "{printed}");
    let receiver = Receiver::listen(address);
    let mut running = start();
    order(&project, 4, -2);
    running.wait_until("all is told", || receiver.taken().len() >= 3);
    let told: Vec<Value> = before.iter().cloned().chain(receiver.taken()).collect();
    assert_eq!(kinds(&told), ["opened", "waived", "closed", "opened"]);
    assert_eq!(receiver.taken()[0]["waived_by"], "ann");
    assert!(told.iter().all(|message| message["check"] == "checks.negative"), "nobody is told of `large`: {told:?}");
    let (_, printed) = running.stop();
    assert!(!printed.contains("very-secret"), "{printed}");

    // Another start tells nothing twice, and what ends a run is told before it ends.
    let count = receiver.taken().len();
    order(&project, 5, 3);
    let ran = project.command(&["run", "--once"]).env("HOOK", &url).output().expect("it runs");
    assert!(ran.status.success(), "{ran:?}");
    let last = receiver.taken();
    assert_eq!((last.len(), &last[count]["event"]), (count + 1, &Value::from("closed")));
}

#[test]
fn a_command_is_run_for_each_event_and_reminders_come_while_it_is_open() {
    let project = project("[checks]\ncommand = [\"sh\", \"told.sh\", \"told.jsonl\"]\nremind = \"500 ms\"\n");
    // It fails the first time.
    project.write("told.sh", "if [ ! -e failed ]; then touch failed; exit 3; fi\ncat >> \"$1\"; echo >> \"$1\"\n");
    let told = || -> Vec<Value> {
        let lines = std::fs::read_to_string(project.file("told.jsonl")).unwrap_or_default();
        lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let mut running = project.start();
    order(&project, 2, -1);
    running.wait_until("reminders come", || told().len() >= 3);
    project.weir_ok(&["checks", "waive", "negative", "--by", "ann", "--why", "known"]);
    running.wait_until("it is waived", || told().last().is_some_and(|last| last["event"] == "waived"));
    order(&project, 3, 1);
    running.wait_until("it is closed", || told().last().is_some_and(|last| last["event"] == "closed"));
    running.stop();
    let mut kinds = kinds(&told());
    let reminders = kinds.iter().filter(|kind| *kind == "still_open").count();
    assert!(reminders >= 2, "{kinds:?}");
    kinds.retain(|kind| kind != "still_open");
    assert_eq!(kinds, ["opened", "waived", "closed"]);
}

#[test]
fn mistakes_in_who_is_told_are_found_before_anything_runs() {
    for (settings, check, words) in [
        ("[checks]\nwebhook = \"ftp://host/x\"\n", "", "is no HTTP address"),
        ("[checks]\nwebhook = \"https://me:hunter2@host/x\"\n", "", "has a password in it"),
        ("[checks]\ncommand = 3\n", "", "should be a list of strings"),
        ("", "-- weir: notify = [\"webhok\"]\n", "did you mean `webhook`?"),
    ] {
        let project = project(settings);
        project.write("checks/negative.sql", format!("{check}SELECT id FROM orders WHERE amount < 0\n"));
        let told = project.weir(&["validate"]);
        assert!(told.code == Some(2) && told.stderr.contains(words), "{words}: {told:#?}");
        assert!(!told.stderr.contains("hunter2"), "{told:#?}");
    }
}

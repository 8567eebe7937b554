//! Settings: TOML, then a line of three dashes, then `NAME=value` lines as the environment. Refused with the place it came from,
//! or read to settings that their own TOML gives again.

use storage::config::Config;

pub(crate) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (file, environment) = text.split_once("\n---\n").unwrap_or((&text, ""));
    let environment: Vec<(String, String)> =
        environment.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let config = match Config::parse("fuzz.toml", file, environment.clone()) {
        Ok(config) => config,
        Err(error) => {
            let message = error.to_string();
            let origin = message.starts_with("fuzz.toml") || environment.iter().any(|(name, _)| message.starts_with(name.as_str()));
            assert!(origin && message.len() > "fuzz.toml: ".len(), "it does not say what or where: {message:?}");
            return;
        }
    };
    usable(&config);
    if environment.is_empty() {
        means_what_it_says(file, &config);
    }
    let again = toml::to_string(&config).expect("settings are TOML");
    assert_eq!(Config::parse("again.toml", &again, []).expect("it was read before"), config, "{again}");
}

/// A time and a size are a number and a unit, multiplied here by a table of its own.
fn means_what_it_says(file: &str, config: &Config) {
    let table: toml::Table = file.parse().expect("it was TOML before");
    let written = |key: &str| table.get("log")?.get(key)?.as_str();
    let times = |text: &str, units: &[(&str, u128)]| {
        let at = text.find(|c: char| !c.is_ascii_digit() && c != '+')?;
        let (_, unit) = units.iter().find(|(name, _)| *name == text[at..].trim_start())?;
        Some(text[..at].parse::<u128>().ok()? * unit)
    };
    if let Some(age) = written("segment_age") {
        let expected = times(age, &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]);
        assert_eq!(Some(config.log.segment_age.0.as_millis()), expected, "{age}");
    }
    if let Some(size) = written("segment_bytes") {
        let expected = times(size, &[("B", 1), ("KiB", 1024), ("MiB", 1024 * 1024), ("GiB", 1024 * 1024 * 1024)]);
        assert_eq!(Some(u128::from(config.log.segment_bytes.0)), expected, "{size}");
    }
}

/// What the layers rely on without looking.
fn usable(config: &Config) {
    assert!((1..=1024).contains(&config.log.partitions) && config.log.segment_bytes.0 > 0 && config.log.dedup_window_rows > 0);
    assert!(!config.log.segment_age.0.is_zero() && !config.serving_layer.speed_timeout.0.is_zero());
    assert!(!config.speed_layer.poll_interval.0.is_zero() && !config.serving_layer.poll_interval.0.is_zero());
    assert!(config.events.amount_type().precision <= 28);
    assert!(config.speed_layer.grpc_address.parse::<std::net::SocketAddr>().is_ok());
    // Every place that takes a deadline adds it to the present.
    let now = std::time::Instant::now();
    let longest = [config.log.segment_age, config.speed_layer.poll_interval, config.serving_layer.poll_interval];
    assert!(longest.iter().all(|period| now.checked_add(period.0).is_some()), "a time that cannot be waited for");
}

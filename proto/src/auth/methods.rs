//! Which scope each method takes. Every method of every server is here: what is not here, nobody may call. docs/security.md has the same
//! table, and tests compare it with this one and this one with the services.

use super::scope::Scope;

/// Whom a method is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Whoever asks: it tells nothing but that there is a server.
    Open,
    /// Whoever has shown who it is.
    Known,
    /// Whoever has that scope.
    Scope(Scope),
}

/// Paths, `/package.Service/Method`, and whom they are for.
pub const METHODS: &[(&str, Door)] = &[
    ("/merganser.v1.IngestService/AppendEvents", Door::Scope(Scope::Ingest)),
    ("/merganser.v1.IngestService/StreamEvents", Door::Scope(Scope::Ingest)),
    ("/merganser.v1.UserStatsService/GetUserStats", Door::Scope(Scope::Query)),
    ("/merganser.v1.UserStatsService/BatchGetUserStats", Door::Scope(Scope::Query)),
    ("/merganser.v1.UserStatsService/WatchUserStats", Door::Scope(Scope::Query)),
    ("/merganser.v1.ViewService/ListViews", Door::Scope(Scope::Query)),
    ("/merganser.v1.ViewService/GetViewRows", Door::Scope(Scope::Query)),
    ("/merganser.v1.ViewService/GetTopRows", Door::Scope(Scope::Query)),
    ("/merganser.v1.ViewService/ListVersions", Door::Scope(Scope::Query)),
    ("/merganser.v1.ViewService/ExportViewRows", Door::Scope(Scope::Query)),
    ("/merganser.v1.SpeedStatusService/GetSpeedStatus", Door::Scope(Scope::Internal)),
    ("/merganser.v1.RealtimeViewService/Cut", Door::Scope(Scope::Internal)),
    ("/merganser.v1.RealtimeViewService/PrepareVersion", Door::Scope(Scope::Internal)),
    ("/merganser.v1.RealtimeViewService/GetStates", Door::Scope(Scope::Internal)),
    ("/merganser.v1.RealtimeViewService/ExportStates", Door::Scope(Scope::Internal)),
    ("/merganser.v1.RealtimeViewService/StreamStates", Door::Scope(Scope::Internal)),
    ("/merganser.v1.RealtimeViewService/EraseUser", Door::Scope(Scope::Admin)),
    ("/grpc.health.v1.Health/Check", Door::Open),
    ("/grpc.health.v1.Health/Watch", Door::Open),
    ("/grpc.health.v1.Health/List", Door::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Door::Known),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Door::Known),
];

/// Whom a path is for; none if nobody has said.
#[must_use]
pub fn door(path: &str) -> Option<Door> {
    METHODS.iter().find(|(known, _)| *known == path).map(|(_, door)| *door)
}

impl Door {
    /// As tables for people have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Known => "any",
            Self::Scope(scope) => scope.as_str(),
        }
    }
}

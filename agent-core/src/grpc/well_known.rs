//! Services that belong to the infrastructure of gRPC and not to an application (checklist X2).
//!
//! Their calls are calls like others, but some of them are streams that live as long as their client: without a deadline
//! by design, and not to be mixed with the durations of an application's calls.

/// A well-known service, by its name on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WellKnown {
    /// `grpc.health.v1.Health`: `Check` and `List`.
    Health,
    /// `grpc.health.v1.Health/Watch`.
    HealthWatch,
    /// `grpc.reflection.v1.ServerReflection`, also `v1alpha`.
    Reflection,
    /// `grpc.channelz.v1.Channelz`.
    Channelz,
    /// `grpc.lb.v1.LoadBalancer`.
    LoadBalancer,
    /// `envoy.service.discovery.v3.AggregatedDiscoveryService`.
    Discovery,
    /// `envoy.service.load_stats.v3.LoadReportingService`.
    LoadReporting,
    /// `xds.service.orca.v3.OpenRcaService`.
    LoadMetrics,
    /// `grpc.gcp.HandshakerService`.
    Handshaker,
    /// `opentelemetry.proto.collector.*.v1.*Service/Export`.
    Telemetry,
}

impl WellKnown {
    /// What a full method name, with its leading slash, belongs to; `None` for an application's methods.
    #[must_use]
    pub fn of(method: &str) -> Option<WellKnown> {
        // Nearly all names end here, after a few octets.
        if !matches!(method.as_bytes(), [b'/', b'g' | b'e' | b'x' | b'o', ..]) {
            return None;
        }
        let (service, name) = method.strip_prefix('/')?.rsplit_once('/')?;
        match service {
            "grpc.health.v1.Health" if name == "Watch" => Some(WellKnown::HealthWatch),
            "grpc.health.v1.Health" => Some(WellKnown::Health),
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
                Some(WellKnown::Reflection)
            }
            "grpc.channelz.v1.Channelz" => Some(WellKnown::Channelz),
            "grpc.lb.v1.LoadBalancer" => Some(WellKnown::LoadBalancer),
            "envoy.service.discovery.v3.AggregatedDiscoveryService" => Some(WellKnown::Discovery),
            "envoy.service.load_stats.v3.LoadReportingService" => Some(WellKnown::LoadReporting),
            "xds.service.orca.v3.OpenRcaService" => Some(WellKnown::LoadMetrics),
            "grpc.gcp.HandshakerService" => Some(WellKnown::Handshaker),
            _ if name == "Export" && is_collector(service) => Some(WellKnown::Telemetry),
            _ => None,
        }
    }

    /// A stream that is meant to stay open: it has no deadline, and its duration says nothing about a service.
    #[must_use]
    pub fn is_long_lived(self) -> bool {
        match self {
            WellKnown::HealthWatch
            | WellKnown::Reflection
            | WellKnown::LoadBalancer
            | WellKnown::Discovery
            | WellKnown::LoadReporting
            | WellKnown::LoadMetrics => true,
            WellKnown::Health | WellKnown::Channelz | WellKnown::Handshaker | WellKnown::Telemetry => false,
        }
    }
}

/// `opentelemetry.proto.collector.<signal>.v1.<Signal>Service`.
fn is_collector(service: &str) -> bool {
    let Some(rest) = service.strip_prefix("opentelemetry.proto.collector.") else { return false };
    let mut parts = rest.split('.');
    let (signal, version, name) = (parts.next(), parts.next(), parts.next());
    signal.is_some_and(|signal| !signal.is_empty())
        && version.is_some_and(|version| version.starts_with("v1"))
        && name.is_some_and(|name| name.ends_with("Service"))
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x2_infrastructure_is_told_from_applications_by_the_whole_name() {
        for (method, expected) in [
            ("/grpc.health.v1.Health/Check", Some(WellKnown::Health)),
            ("/grpc.health.v1.Health/List", Some(WellKnown::Health)),
            ("/grpc.health.v1.Health/Watch", Some(WellKnown::HealthWatch)),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Some(WellKnown::Reflection)),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Some(WellKnown::Reflection)),
            ("/grpc.channelz.v1.Channelz/GetServers", Some(WellKnown::Channelz)),
            ("/grpc.lb.v1.LoadBalancer/BalanceLoad", Some(WellKnown::LoadBalancer)),
            (
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
                Some(WellKnown::Discovery),
            ),
            (
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
                Some(WellKnown::Discovery),
            ),
            (
                "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats",
                Some(WellKnown::LoadReporting),
            ),
            ("/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics", Some(WellKnown::LoadMetrics)),
            ("/grpc.gcp.HandshakerService/DoHandshake", Some(WellKnown::Handshaker)),
            ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", Some(WellKnown::Telemetry)),
            (
                "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export",
                Some(WellKnown::Telemetry),
            ),
            ("/opentelemetry.proto.collector.trace.v1.TraceService/Other", None),
            ("/grpc.health.v1.HealthX/Check", None),
            ("/my.grpc.health.v1.Health/Check", None),
            ("grpc.health.v1.Health/Check", None),
            ("/grpc.health.v1.Health", None),
            ("/shop.Orders/Watch", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(WellKnown::of(method), expected, "{method}");
        }
    }

    #[test]
    fn x2_watch_like_streams_are_long_lived_and_requests_are_not() {
        assert!(WellKnown::HealthWatch.is_long_lived());
        assert!(WellKnown::Discovery.is_long_lived());
        assert!(!WellKnown::Health.is_long_lived());
        assert!(!WellKnown::Telemetry.is_long_lived());
    }
}

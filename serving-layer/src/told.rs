//! What this layer tells over HTTP: whether it is ready, and its numbers. `docs/operations.md` has the table of them, which a test
//! compares with a scrape.
//!
//! It is ready once each view was tried: one that cannot be opened is told, and keeps nobody from the others. A speed layer that is away is no reason
//! not to be: the batch half is answered, and whoever sends questions elsewhere for it would find the same there.

use std::fmt;
use std::sync::Arc;

use merganser_proto::auth::{Authority, Refusal};
use merganser_proto::http::Started;
use merganser_proto::metrics::{Labels, Numbers, Sheet, one};
use merganser_proto::server::{CallCounts, Peer};
use merganser_proto::tls::{ClientTls, ServerTls};
use merganser_proto::traces;
use tokio::sync::watch;
use tonic::codegen::http::HeaderMap;

use crate::service::Service;
use crate::version::Version;
use crate::versions::Versions;

/// See the module.
pub(crate) struct Told {
    pub(crate) service: Service,
    pub(crate) calls: CallCounts,
    pub(crate) authority: Arc<Authority>,
    pub(crate) speed_reachable: watch::Receiver<bool>,
    pub(crate) tls: Option<ServerTls>,
    /// Of calls to the speed layer.
    pub(crate) call_tls: Option<ClientTls>,
}

impl Started for Told {
    fn not_ready(&self) -> Option<String> {
        if !self.service.served.have_looked() {
            return Some("views are being opened".to_owned());
        }
        let version = self.service.stats.versions.current();
        version.damage().map(|reason| format!("version {} of user_stats is damaged: {reason}", version.number))
    }

    fn may_read_metrics(&self, headers: &HeaderMap, peer: &Peer) -> Result<(), Refusal> {
        self.authority.may_read_metrics(headers, peer)
    }
}

impl Numbers for Told {
    fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let truth = |it: bool| one(f64::from(u8::from(it)));
        sheet.gauge("merganser_serving_ready", "1 if /readyz says so.", truth(self.not_ready().is_none()))?;
        let reachable = *self.speed_reachable.borrow();
        sheet.gauge(
            "merganser_serving_speed_layer_reachable",
            "1 if the speed layer says that it serves, and lets this layer in.",
            truth(reachable),
        )?;
        self.write_views(sheet)?;
        let opening = self.service.served.opening();
        sheet.counter("merganser_serving_cache_hits", "Blocks of batch views that were in memory.", one(opening.cache.hits()))?;
        sheet.counter("merganser_serving_cache_misses", "Blocks of batch views that were read.", one(opening.cache.misses()))?;
        sheet.gauge("merganser_serving_cache_bytes", "Memory of the blocks that are held.", one(opening.cache.bytes() as f64))?;
        sheet.gauge("merganser_serving_watches", "Watches that are open.", one(self.service.watches.open() as f64))?;
        opening.metrics.write(sheet)?;
        self.authority.write("merganser_serving", sheet)?;
        ServerTls::write(self.tls.as_ref(), "merganser_serving", sheet)?;
        ClientTls::write(self.call_tls.as_ref(), "merganser_serving", sheet)?;
        traces::write("merganser_serving", sheet)?;
        self.calls.write("merganser_serving", sheet)
    }
}

impl Told {
    fn write_views(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let views: Vec<(Arc<Versions>, Arc<Version>)> =
            self.service.served.all().into_iter().map(|answers| (Arc::clone(&answers.versions), answers.versions.current())).collect();
        let now = |of: fn(&Version) -> f64| views.iter().map(move |(versions, version)| (label(versions), of(version)));
        sheet.gauge("merganser_serving_version", "The version that answers; 0 while nothing is published.", now(|v| v.number as f64))?;
        let computed = views.iter().filter_map(|(versions, version)| Some((label(versions), version.computed_us()? as f64 / 1e6)));
        sheet.gauge("merganser_serving_version_computed_timestamp_seconds", "When it was computed, since 1970.", computed)?;
        let boundary = views.iter().flat_map(|(versions, version)| {
            let of_partition = |(partition, offset): (&i32, &i64)| {
                let mut labels = label(versions);
                labels.push(("partition", partition.to_string()));
                (labels, *offset as f64)
            };
            version.boundary.iter().map(of_partition).collect::<Vec<_>>()
        });
        sheet.gauge("merganser_serving_version_boundary_offset", "The first offset that it does not cover.", boundary)?;
        let damaged = now(|version| f64::from(u8::from(version.damage().is_some())));
        sheet.gauge("merganser_serving_version_damaged", "1 if its files were found damaged, and it answers nothing.", damaged)?;
        let counted = |of: fn(&Versions) -> u64| views.iter().map(move |(versions, _)| (label(versions), of(versions)));
        sheet.counter("merganser_serving_swaps", "Versions that took the place of another.", counted(|v| v.swaps.get()))?;
        let help = "Times that the newest version could not be looked for, or not take its place.";
        sheet.counter("merganser_serving_swap_failures", help, counted(|v| v.failures.get()))?;
        let unopened = self.service.served.opening().metrics.unopened_views.get();
        sheet.counter("merganser_serving_unopened_views", "Times that a view could not be opened.", one(unopened))?;
        let closed = self.service.served.unopened();
        let closed = closed.keys().map(|view| (vec![("view", view.to_string())], 1.0));
        sheet.gauge("merganser_serving_view_unopened", "1 for a view that is published and cannot be opened.", closed)
    }
}

/// Views are declared by whoever runs the server.
fn label(versions: &Versions) -> Labels {
    vec![("view", versions.view().to_owned())]
}

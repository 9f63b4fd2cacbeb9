use crate::admin::state::ApiState;
use axum::Router;
use axum::handler::Handler;
use axum::routing::{get, post};

/// An endpoint of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// HTTP method: `GET` or `POST`.
    pub method: &'static str,
    /// Path; segments in braces are parameters.
    pub path: &'static str,
}

/// Routes by path. The router and the endpoint list compared with `docs/openapi.json` come from this one
/// table.
#[derive(Default)]
pub struct RouteTable {
    router: Router<ApiState>,
    endpoints: Vec<Endpoint>,
}

impl RouteTable {
    /// Adds a query.
    pub fn get<H: Handler<T, ApiState>, T: 'static>(mut self, path: &'static str, answer: H) -> Self {
        self.router = self.router.route(path, get(answer));
        self.endpoints.push(Endpoint { method: "GET", path });
        self
    }

    /// Adds an action.
    pub fn post<H: Handler<T, ApiState>, T: 'static>(mut self, path: &'static str, answer: H) -> Self {
        self.router = self.router.route(path, post(answer));
        self.endpoints.push(Endpoint { method: "POST", path });
        self
    }

    /// Adds the routes of another table.
    pub fn merge(mut self, others: Self) -> Self {
        self.router = self.router.merge(others.router);
        self.endpoints.extend(others.endpoints);
        self
    }

    /// Returns the router.
    pub fn router(self) -> Router<ApiState> {
        self.router
    }

    /// Returns the endpoints in the order of the table.
    pub fn endpoints(self) -> Vec<Endpoint> {
        self.endpoints
    }
}

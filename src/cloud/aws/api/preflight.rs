//! What can be asked before anything is changed: whether the caller may, whether an account blocks it, how much of
//! something it may have, whether something is in use.
//!
//! These calls are younger than the library that knows the others, or of a service that is not worth one: they are
//! requests of the same two protocols, written out.

use chrono::{DateTime, Utc};
use hyper::body::Bytes;
use rusoto_core::RusotoError;
use rusoto_signature::SignedRequest;
use serde_json::{Value, json};

use super::super::endpoints::Service;
use super::refusal::element;
use super::{Api, Error, Repeat, Result};
use crate::http::Class;

/// The version of EC2's API that all these calls are of.
const EC2: &str = "2016-11-15";

/// What a service says about a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// The caller may.
    Granted,
    /// It may not: what the service said.
    Denied(String),
    /// That cannot be told: why.
    Unknown(String),
}

/// How many of something an account may have in a region, from the Service Quotas.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    service: &'static str,
    code: &'static str,
}

impl Quota {
    /// Images that everybody may use: "Public AMIs".
    pub const PUBLIC_IMAGES: Self = Self { service: "ec2", code: "L-0E3CBAB9" };
}

impl Api {
    /// Whether the caller may make this call of EC2 with these parameters: a dry run, which changes nothing. EC2 looks
    /// at some parameters first; if it refuses these, it cannot be told.
    ///
    /// # Errors
    /// Any [`Error`] but refusals of the call itself.
    pub async fn may(&self, call: &'static str, parameters: &[(&str, &str)]) -> Result<Right> {
        let asked = self.query(call, &[parameters, &[("DryRun", "true")]].concat()).await;
        match asked {
            Err(e) if e.is(&["DryRunOperation"]) => Ok(Right::Granted),
            Err(e) if e.is(&["UnauthorizedOperation"]) => Ok(Right::Denied(e.to_string())),
            Err(e) if e.code().is_some() => Ok(Right::Unknown(e.to_string())),
            Err(e) => Err(e),
            Ok(_) => Ok(Right::Unknown("the service knows no dry run of it".into())),
        }
    }

    /// Whether the account keeps new images of the region from being public: `GetImageBlockPublicAccessState`.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn blocks_public_images(&self) -> Result<bool> {
        let call = "GetImageBlockPublicAccessState";
        let state = self.query(call, &[]).await?;
        let state = element(&state, "imageBlockPublicAccessState");
        Ok(super::required(call, "state", state)? != "unblocked")
    }

    /// Whether the account keeps new snapshots of the region from being public: `GetSnapshotBlockPublicAccessState`.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn blocks_public_snapshots(&self) -> Result<bool> {
        let call = "GetSnapshotBlockPublicAccessState";
        let state = self.query(call, &[]).await?;
        Ok(super::required(call, "state", element(&state, "state"))? != "unblocked")
    }

    /// When a machine was last started of an image, as far as EC2 has told yet, which takes a day; `None`: never, or it
    /// is not known.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn last_launched(&self, image: &str) -> Result<Option<DateTime<Utc>>> {
        let call = "DescribeImageAttribute";
        let answer = self.query(call, &[("ImageId", image), ("Attribute", "lastLaunchedTime")]).await?;
        let time = element(&answer, "lastLaunchedTime").and_then(|inner| element(&inner, "value"));
        let Some(time) = time.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
        let parsed = DateTime::parse_from_rfc3339(time.trim());
        parsed
            .map(|time| Some(time.to_utc()))
            .map_err(|_| Error::answer(call, format!("{time:?} is no time")))
    }

    /// How many of something the account may have in the region: what was granted to it, else what everybody may;
    /// `None` if the service knows no such quota.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn quota(&self, of: Quota) -> Result<Option<u64>> {
        for call in ["GetServiceQuota", "GetAWSDefaultServiceQuota"] {
            match self.quotas(call, of).await {
                Ok(quota) => {
                    let value = quota["Quota"]["Value"].as_f64();
                    let value = super::required(call, "value", value.filter(|v| (0.0..1e15).contains(v)))?;
                    // Whole numbers, which the service writes as 5.0.
                    return Ok(Some(value as u64));
                }
                Err(e) if e.class() == Some(Class::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// A call of EC2, written out: the answer's text.
    async fn query(&self, call: &'static str, parameters: &[(&str, &str)]) -> Result<String> {
        let body = {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("Action", call).append_pair("Version", EC2).extend_pairs(parameters);
            Bytes::from(form.finish())
        };
        let answer = self.written_out(Service::Ec2, call, |region| {
            let mut request = SignedRequest::new("POST", "ec2", region, "/");
            request.set_content_type("application/x-www-form-urlencoded; charset=utf-8".into());
            request.set_payload(Some(body.clone()));
            request
        });
        Ok(String::from_utf8_lossy(&answer.await?).into_owned())
    }

    /// A call of the Service Quotas.
    async fn quotas(&self, call: &'static str, Quota { service, code }: Quota) -> Result<Value> {
        let body = json!({"ServiceCode": service, "QuotaCode": code}).to_string();
        let answer = self.written_out(Service::Quotas, call, |region| {
            let mut request = SignedRequest::new("POST", "servicequotas", region, "/");
            request.set_content_type("application/x-amz-json-1.1".into());
            request.add_header("x-amz-target", &format!("ServiceQuotasV20190624.{call}"));
            request.set_payload(Some(body.clone()));
            request
        });
        serde_json::from_slice(&answer.await?).map_err(|_| Error::answer(call, "it is not JSON"))
    }

    async fn written_out(
        &self,
        service: Service,
        call: &'static str,
        request: impl Fn(&rusoto_core::Region) -> SignedRequest,
    ) -> Result<Bytes> {
        let once = |client: rusoto_core::Client, region: rusoto_core::Region| {
            let request = request(&region);
            async move {
                let mut answer =
                    client.sign_and_dispatch(request).await.map_err(RusotoError::<Never>::from)?;
                // The dispatcher has turned all refusals into failures.
                answer.buffer().await.map(|answer| answer.body).map_err(RusotoError::from)
            }
        };
        self.call(service, call, Repeat::Freely, once).await
    }
}

/// These calls have no errors of their own.
#[derive(Debug)]
struct Never;

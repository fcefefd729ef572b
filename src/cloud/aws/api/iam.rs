//! IAM and STS: roles, instance profiles, and who one is.

use rusoto_iam::{
    AddRoleToInstanceProfileRequest, CreateInstanceProfileRequest, CreateRoleRequest,
    GetInstanceProfileRequest, GetRolePolicyRequest, GetRoleRequest, Iam as _, IamClient,
    PutRolePolicyRequest,
};
use rusoto_sts::{
    AssumeRoleRequest, AssumeRoleWithWebIdentityRequest, GetCallerIdentityRequest, Sts as _, StsClient,
};

use super::super::credentials::Keys;
use super::super::endpoints::Service;
use super::types::time;
use super::{Api, Connection, Repeat, Result, required};
use crate::secret::Secret;

/// Whom requests are made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The number of the account.
    pub account: String,
    /// The ARN of the user or the role that was taken on.
    pub arn: String,
}

impl Api {
    /// Who the credentials belong to.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn caller(&self) -> Result<Caller> {
        let call = "GetCallerIdentity";
        let once = |client, region| async move {
            StsClient::new_with_client(client, region).get_caller_identity(GetCallerIdentityRequest {}).await
        };
        let answer = self.call(Service::Sts, call, Repeat::Freely, once).await?;
        Ok(Caller {
            account: required(call, "Account", answer.account)?,
            arn: required(call, "Arn", answer.arn)?,
        })
    }

    async fn iam<R: Clone, T, E, F>(
        &self,
        call: &'static str,
        request: R,
        once: impl Fn(IamClient, R) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, rusoto_core::RusotoError<E>>>,
    {
        let once = |client, region| once(IamClient::new_with_client(client, region), request.clone());
        self.call(Service::Iam, call, Repeat::Freely, once).await
    }

    /// Whether there is a role of this name.
    ///
    /// # Errors
    /// Any [`Error`] but that it does not exist.
    pub async fn role_exists(&self, name: &str) -> Result<bool> {
        let request = GetRoleRequest { role_name: name.to_owned() };
        found(self.iam("GetRole", request, |c, r| async move { c.get_role(r).await }).await)
    }

    /// Makes a role; `trust_policy` is a JSON document that says who may take it on.
    ///
    /// # Errors
    /// Any [`Error`]; `EntityAlreadyExists` when it is there.
    pub async fn create_role(&self, name: &str, description: &str, trust_policy: &str) -> Result<()> {
        let request = CreateRoleRequest {
            role_name: name.to_owned(),
            description: Some(description.to_owned()).filter(|d| !d.is_empty()),
            assume_role_policy_document: trust_policy.to_owned(),
            ..Default::default()
        };
        self.iam("CreateRole", request, |c, r| async move { c.create_role(r).await }).await?;
        Ok(())
    }

    /// Whether a role has an inline policy of this name.
    ///
    /// # Errors
    /// Any [`Error`] but that it does not exist.
    pub async fn role_policy_exists(&self, role: &str, policy: &str) -> Result<bool> {
        let request = GetRolePolicyRequest { role_name: role.to_owned(), policy_name: policy.to_owned() };
        let once = |c: IamClient, r| async move { c.get_role_policy(r).await };
        found(self.iam("GetRolePolicy", request, once).await)
    }

    /// Sets an inline policy of a role, a JSON document.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn put_role_policy(&self, role: &str, policy: &str, document: &str) -> Result<()> {
        let request = PutRolePolicyRequest {
            role_name: role.to_owned(),
            policy_name: policy.to_owned(),
            policy_document: document.to_owned(),
        };
        self.iam("PutRolePolicy", request, |c, r| async move { c.put_role_policy(r).await }).await
    }

    /// Whether an instance profile has a role; `None` when there is no such profile.
    ///
    /// # Errors
    /// Any [`Error`] but that it does not exist.
    pub async fn instance_profile_ready(&self, name: &str) -> Result<Option<bool>> {
        let request = GetInstanceProfileRequest { instance_profile_name: name.to_owned() };
        let once = |c: IamClient, r| async move { c.get_instance_profile(r).await };
        match self.iam("GetInstanceProfile", request, once).await {
            Ok(answer) => Ok(Some(!answer.instance_profile.roles.is_empty())),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes an empty instance profile.
    ///
    /// # Errors
    /// Any [`Error`]; `EntityAlreadyExists` when it is there.
    pub async fn create_instance_profile(&self, name: &str) -> Result<()> {
        let request =
            CreateInstanceProfileRequest { instance_profile_name: name.to_owned(), ..Default::default() };
        let once = |c: IamClient, r| async move { c.create_instance_profile(r).await };
        self.iam("CreateInstanceProfile", request, once).await?;
        Ok(())
    }

    /// Gives an instance profile its role.
    ///
    /// # Errors
    /// Any [`Error`]; `LimitExceeded` when it has one.
    pub async fn add_role_to_instance_profile(&self, profile: &str, role: &str) -> Result<()> {
        let request = AddRoleToInstanceProfileRequest {
            instance_profile_name: profile.to_owned(),
            role_name: role.to_owned(),
        };
        let once = |c: IamClient, r| async move { c.add_role_to_instance_profile(r).await };
        self.iam("AddRoleToInstanceProfile", request, once).await
    }
}

/// Whether a look-up found its object.
fn found<T>(answer: Result<T>) -> Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(e) if e.is_not_found() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes on a role with keys that may; for credentials.
pub(in super::super) async fn assume_role(
    sts: &Connection,
    keys: Keys,
    role: &str,
    session: &str,
    external_id: Option<&str>,
    duration: Option<i64>,
) -> Result<Keys> {
    let call = "AssumeRole";
    let request = AssumeRoleRequest {
        role_arn: role.to_owned(),
        role_session_name: session.to_owned(),
        external_id: external_id.map(str::to_owned),
        duration_seconds: duration,
        ..Default::default()
    };
    let once = |client, region| {
        let request = request.clone();
        async move { StsClient::new_with_client(client, region).assume_role(request).await }
    };
    as_keys(call, sts.call(Some(&keys), &[], call, once).await?.credentials)
}

/// Takes on a role with the token of a web identity; for credentials. Not signed: the token is the proof.
pub(in super::super) async fn assume_role_with_web_identity(
    sts: &Connection,
    role: &str,
    session: &str,
    token: &Secret,
) -> Result<Keys> {
    let call = "AssumeRoleWithWebIdentity";
    let request = AssumeRoleWithWebIdentityRequest {
        role_arn: role.to_owned(),
        role_session_name: session.to_owned(),
        web_identity_token: token.expose().to_owned(),
        ..Default::default()
    };
    let once = |client, region| {
        let request = request.clone();
        async move { StsClient::new_with_client(client, region).assume_role_with_web_identity(request).await }
    };
    as_keys(call, sts.call(None, std::slice::from_ref(token), call, once).await?.credentials)
}

fn as_keys(call: &'static str, answer: Option<rusoto_sts::Credentials>) -> Result<Keys> {
    let answer = required(call, "Credentials", answer)?;
    let expires = required(call, "valid Expiration", time(Some(&answer.expiration)))?;
    Ok(Keys {
        id: answer.access_key_id,
        secret: answer.secret_access_key.into(),
        token: Some(answer.session_token.into()),
        expires: Some(expires),
    })
}

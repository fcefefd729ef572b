//! Clouds without clouds: other people's servers and our own fakes, and kola and ore against them.

mod aws;
mod doubles;
mod ec2;
mod kola_aws;
mod machines;
mod ore_aws;

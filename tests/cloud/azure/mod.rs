//! Azure: blobs, judged by Azurite and Microsoft's own client; the classic API, against a double of our own.

mod asm;
mod blobs;
mod classic;

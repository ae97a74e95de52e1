//! Data connections: always the visitor's to open, always short.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ring::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::serve::Session;

/// How long a visitor may take to open a data connection, and to fill it.
const ACCEPT: Duration = Duration::from_secs(20);
const TRANSFER: Duration = Duration::from_secs(60);

/// The largest upload taken, in bytes.
const UPLOAD_CAP: usize = 4 * 1024 * 1024;

/// How much of an upload is kept for the log.
const KEPT: usize = 4096;

/// A port that waits for one visitor.
pub(super) struct Passive {
    listener: TcpListener,
    address: SocketAddr,
    peer: IpAddr,
}

impl Passive {
    pub(super) async fn open(session: &Session) -> io::Result<Self> {
        let own = session.local_address().ip();
        let listener = TcpListener::bind((own, 0)).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            peer: session.peer(),
        })
    }

    pub(super) fn pasv(&self) -> String {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        let [a, b, c, d] = ip.octets();
        let [high, low] = self.address.port().to_be_bytes();
        format!("227 Entering Passive Mode ({a},{b},{c},{d},{high},{low}).\r\n")
    }

    pub(super) fn epsv(&self) -> String {
        format!(
            "229 Entering Extended Passive Mode (|||{}|).\r\n",
            self.address.port()
        )
    }

    /// The visitor's connection. Others on the port are dropped (RFC 2577 §4).
    pub(super) async fn accept(self) -> Option<TcpStream> {
        let own = async {
            loop {
                match self.listener.accept().await {
                    Ok((stream, from)) if from.ip() == self.peer => return Some(stream),
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        timeout(ACCEPT, own).await.ok().flatten()
    }
}

pub(super) async fn send(mut stream: TcpStream, text: &str) -> io::Result<()> {
    let work = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    };
    timeout(TRANSFER, work).await?
}

/// An upload, as far as it is kept.
pub(super) struct Upload {
    pub(super) size: usize,
    pub(super) sha256: String,
    pub(super) head: Vec<u8>,
    /// Whether it ended before the cap and in time.
    pub(super) whole: bool,
}

pub(super) async fn receive(mut stream: TcpStream) -> Upload {
    let mut upload = Upload {
        size: 0,
        sha256: String::new(),
        head: Vec::new(),
        whole: false,
    };
    let mut digest = Context::new(&SHA256);
    let work = async {
        let mut chunk = vec![0; 16 * 1024];
        while upload.size <= UPLOAD_CAP {
            let Ok(count) = stream.read(&mut chunk).await else {
                return;
            };
            if count == 0 {
                upload.whole = true;
                return;
            }
            digest.update(&chunk[..count]);
            upload.size += count;
            let room = KEPT - upload.head.len();
            upload.head.extend_from_slice(&chunk[..count.min(room)]);
        }
    };
    let _ = timeout(TRANSFER, work).await;
    upload.sha256 = hex::encode(digest.finish());
    upload
}

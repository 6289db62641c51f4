//! Somebody who passes packets on between two ends.
#![allow(dead_code)] // each test file uses a part of it

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{net::UdpSocket, task::JoinSet};

/// Somebody in between, as a NAT is: packets leave it from another port.
pub(crate) struct Between {
    pub(crate) place: SocketAddr,
    outside: Arc<Mutex<Arc<UdpSocket>>>,
    tasks: JoinSet<()>,
    inside: Arc<UdpSocket>,
    client: Arc<Mutex<Option<SocketAddr>>>,
    /// Packets that have come back to the port that they leave it from now.
    answers: Arc<AtomicUsize>,
}

impl Between {
    pub(crate) async fn new(to: SocketAddr) -> Self {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let mut between = Self {
            place: inside.local_addr().unwrap(),
            outside: Arc::new(Mutex::new(outside)),
            tasks: JoinSet::new(),
            inside,
            client: Arc::default(),
            answers: Arc::default(),
        };
        let (inside, outside) = (between.inside.clone(), between.outside.clone());
        let client = between.client.clone();
        between.tasks.spawn(async move {
            let mut packet = [0; 2000];
            while let Ok((length, from)) = inside.recv_from(&mut packet).await {
                *client.lock().unwrap() = Some(from);
                let outside = outside.lock().unwrap().clone();
                let _ = outside.send_to(&packet[..length], to).await;
            }
        });
        between.back();
        between
    }

    fn back(&mut self) {
        let (inside, client) = (self.inside.clone(), self.client.clone());
        let outside = self.outside.lock().unwrap().clone();
        self.answers = Arc::default();
        let answers = self.answers.clone();
        self.tasks.spawn(async move {
            let mut packet = [0; 2000];
            while let Ok((length, _)) = outside.recv_from(&mut packet).await {
                answers.fetch_add(1, Ordering::Relaxed);
                let client = *client.lock().unwrap();
                if let Some(client) = client {
                    let _ = inside.send_to(&packet[..length], client).await;
                }
            }
        });
    }

    pub(crate) fn seen(&self) -> SocketAddr {
        self.outside.lock().unwrap().local_addr().unwrap()
    }

    /// From now on packets leave it from another port.
    pub(crate) async fn rebind(&mut self) {
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        *self.outside.lock().unwrap() = outside;
        self.back();
    }

    /// Packets that have come back since.
    pub(crate) fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }
}

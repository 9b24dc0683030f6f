use ringweir::{Options, Read, Start};
fn main() {
    let spin = std::env::args().nth(2).is_some();
    let mut o = Options::new("perf").start(Start::Seq(0));
    if spin { o = o.always_spin(); }
    let mut r = o.attach(&std::env::args().nth(1).unwrap()).unwrap();
    let (mut n, mut sum, mut lost, mut gaps) = (0u64, 0u64, 0u64, 0u64);
    let t = std::time::Instant::now();
    loop {
        match r.next().unwrap() {
            Read::Datagram(mut d) => { if let Ok(s) = d.view(|p| p.fold(0u64, |a, b| a + b.iter().map(|x| *x as u64).sum::<u64>())) { n += 1; sum += s; } }
            Read::Gap(g) => { lost += g.count; gaps += 1 }
            Read::Empty => r.wait(None).unwrap(),
            Read::Restarted(_) => {},
            Read::Ended(e) => { eprintln!("{e:?}"); break }
        }
    }
    let dt = t.elapsed().as_secs_f64();
    println!("n {n} lost {lost} gaps {gaps} sum {sum} {:.2} M/s, account {:?}", n as f64 / dt / 1e6, r.account());
}

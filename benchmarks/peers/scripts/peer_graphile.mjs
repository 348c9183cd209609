// Graphile Worker, in its own environment: the settings of its page on performance (local queue of 500, completions
// batched, 24 jobs at once). The commands are those of benchmarks/contest.py, and mean the same.
import fs from "node:fs";
import path from "node:path";
import { run, makeWorkerUtils, runMigrations } from "graphile-worker";

const CHUNK = 2000;
const FLUSH_NS = 5_000_000n;
const [command, url, ...rest] = process.argv.slice(2);
const number = (name, fallback) => Number(process.env[name] ?? fallback);

// Node cannot map a file: the counters are written at most every 5 ms, at once when the last write is older.
class Probe {
  constructor(folder) {
    this.file = fs.openSync(path.join(folder, `${process.pid}.probe`), "w+");
    this.counters = new BigInt64Array(3);
    this.written = 0n;
    this.timer = null;
    this.write();
  }
  write() {
    this.timer = null;
    this.written = process.hrtime.bigint();
    fs.writeSync(this.file, Buffer.from(this.counters.buffer), 0, 24, 0);
  }
  ran() {
    const now = process.hrtime.bigint();
    if (this.counters[0] === 0n) this.counters[1] = now;
    this.counters[0] += 1n;
    this.counters[2] = now;
    if (this.timer !== null) return;
    if (now - this.written > FLUSH_NS) this.write();
    else this.timer = setTimeout(() => this.write(), 5);
  }
}

function progress(folder) {
  let runs = 0n;
  let last = 0n;
  for (const name of fs.readdirSync(folder)) {
    const data = name.endsWith(".probe") ? fs.readFileSync(path.join(folder, name)) : Buffer.alloc(0);
    if (data.length !== 24 || data.readBigInt64LE(0) === 0n) continue;
    runs += data.readBigInt64LE(0);
    if (data.readBigInt64LE(16) > last) last = data.readBigInt64LE(16);
  }
  return { runs, last };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const seconds = (since) => Number(process.hrtime.bigint() - since) / 1e9;
const job = (n) => ({ identifier: "noop", payload: { n } });
const jobs = (first, end) => Array.from({ length: end - first }, (_, i) => job(first + i));

async function fill(utils, tasks) {
  await utils.addJobs(jobs(0, 1));
  const began = process.hrtime.bigint();
  for (let first = 1; first < tasks; first += CHUNK) await utils.addJobs(jobs(first, Math.min(first + CHUNK, tasks)));
  return { tasks: tasks - 1, seconds: seconds(began) };
}

async function single(utils, tasks) {
  for (let n = 0; n < 10; n++) await utils.addJob("noop", { n });
  const began = process.hrtime.bigint();
  for (let n = 0; n < tasks; n++) await utils.addJob("noop", { n });
  return { tasks, seconds: seconds(began) };
}

async function pickup(utils, folder, samples) {
  const milliseconds = [];
  for (let n = -10; n < samples; n++) {
    const before = progress(folder).runs;
    await utils.addJob("noop", { n });
    const stored = process.hrtime.bigint();
    let now = progress(folder);
    while (now.runs === before) {
      if (seconds(stored) > 20) throw new Error(`task ${n} was not picked up`);
      await pause(0.5);
      now = progress(folder);
    }
    if (n >= 0) milliseconds.push(Math.max(0, Number(now.last - stored) / 1e6));
    await pause(4 + Math.random() * 20);
  }
  return { milliseconds };
}

async function work() {
  const probe = new Probe(process.env.BENCH_PROBE);
  const concurrentJobs = number("BENCH_CONCURRENCY", 24);
  const runner = await run({
    logger: new (await import("graphile-worker")).Logger(() => () => {}),
    preset: {
      worker: {
        connectionString: url,
        concurrentJobs,
        maxPoolSize: concurrentJobs + 1,
        localQueue: { size: number("BENCH_BATCH", 500) },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
    noHandleSignals: true,
    taskList: {
      noop: async () => {
        probe.ran();
      },
    },
  });
  process.on("SIGTERM", () => runner.stop().then(() => process.exit(0)));
  await runner.promise;
}

if (command === "setup") {
  await runMigrations({ connectionString: url });
} else if (command === "work") {
  await work();
} else {
  const utils = await makeWorkerUtils({ connectionString: url });
  const ask = { fill, single, pickup }[command];
  const given = command === "pickup" ? [rest[0], Number(rest[1])] : [Number(rest[0])];
  console.log(JSON.stringify(await ask(utils, ...given)));
  await utils.release();
}

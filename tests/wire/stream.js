// Reads streams of a gtcp server, written from docs/wire.md alone; uses nothing but Node's net.
//
//     node stream.js HOST PORT
//
// Prints one line of JSON: what each stream and call has received.

"use strict";

const net = require("net");

class Connection {
  constructor(host, port) {
    this.socket = net.createConnection(Number(port), host);
    this.socket.setNoDelay(true);
    this.waiting = new Map(); // id -> what takes its lines
    this.nextId = 1;
    let rest = "";
    this.socket.setEncoding("utf8");
    this.socket.on("data", (data) => {
      const lines = (rest + data).split("\n");
      rest = lines.pop();
      for (const line of lines) this.take(JSON.parse(line));
    });
  }

  send(request) {
    this.socket.write(JSON.stringify(request) + "\n");
  }

  take(reply) {
    const waiter = this.waiting.get(reply.id);
    if (waiter === undefined) return; // late
    if (!reply.more) this.waiting.delete(reply.id);
    waiter(reply);
  }

  call(cmdid, params) {
    return new Promise((resolve, reject) => {
      const id = this.nextId++;
      this.waiting.set(id, (reply) => {
        if (reply.code === 0) resolve(reply.result);
        else reject(Object.assign(new Error(reply.message), { code: reply.code }));
      });
      this.send({ cmdid, params, id });
    });
  }

  async *stream(cmdid, params, credit) {
    const id = this.nextId++;
    const items = [];
    let end = null;
    let wake = null;
    this.most = 0; // items that were kept at the same time
    this.waiting.set(id, (reply) => {
      if (reply.more && reply.code === 0) items.push(reply);
      else if (!reply.more) end = reply;
      this.most = Math.max(this.most, items.length);
      if (wake) wake();
    });
    this.send({ cmdid, params, id, stream: true, credit });
    let expected = 0;
    let taken = 0;
    try {
      for (;;) {
        while (items.length) {
          const item = items.shift();
          if (item.item !== expected++) throw new Error(`item ${item.item} is out of order`);
          taken++;
          yield item.result;
        }
        if (end) break;
        if (taken) {
          this.send({ cmdid: 0, oneway: true, params: { op: "credit", id, n: taken } });
          taken = 0;
        }
        await new Promise((resolve) => (wake = resolve));
        wake = null;
      }
      if (end.code !== 0) throw Object.assign(new Error(end.message), { code: end.code });
    } finally {
      if (!end) this.send({ cmdid: 0, oneway: true, params: { op: "cancel", id } });
      this.waiting.delete(id);
    }
  }
}

async function main(host, port) {
  const connection = new Connection(host, port);
  const told = {};

  // All items of a stream, and calls on the same connection meanwhile.
  let sum = 0;
  let count = 0;
  const calls = [];
  for await (const row of connection.stream(1, { n: 5000 }, 16)) {
    sum += row.n;
    if (count++ % 500 === 0) calls.push(connection.call(2, { number: count }));
    if (count % 1000 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  told.all = { count, sum, most: connection.most };
  told.calls = (await Promise.all(calls)).map((each) => each.number);

  // Leaving a stream stops its handler.
  for await (const row of connection.stream(1, { n: 1e9 }, 16)) {
    if (row.n === 20) break;
  }
  told.stopped = await connection.call(3, {});

  // An error ends a stream behind its items.
  const items = [];
  try {
    for await (const row of connection.stream(4, {}, 16)) items.push(row);
  } catch (error) {
    told.error = { items, code: error.code, message: error.message };
  }

  // A call without `stream`, and the reverse.
  told.refused = [];
  await connection.call(1, {}).catch((error) => told.refused.push(error.code));
  try {
    for await (const row of connection.stream(2, {}, 16)) items.push(row);
  } catch (error) {
    told.refused.push(error.code);
  }

  console.log(JSON.stringify(told));
  connection.socket.end();
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exit(1);
});

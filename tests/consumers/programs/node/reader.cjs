// A consumer: reads one prefix with the client etcd3, keeps up by its watcher, and prints a line for every change of what
// it knows. Each value is JSON, as Plain writes it with `value: JSON`.
"use strict";
const { Etcd3 } = require("etcd3");

async function main([endpoints, prefix]) {
  const client = new Etcd3({ hosts: endpoints.split(",") });
  const known = new Map();
  const tell = () => {
    const addresses = [...known.values()].map(({ address, port }) => `${address}:${port}`).sort();
    console.log(JSON.stringify({ addresses }));
  };
  const response = await client.getAll().prefix(prefix).exec();
  for (const kv of response.kvs) known.set(kv.key.toString(), JSON.parse(kv.value.toString()));
  tell();
  const next = String(BigInt(response.header.revision) + 1n);
  const watcher = await client.watch().prefix(prefix).startRevision(next).create();
  // All that happened at one revision comes in one answer: told one by one, what one transaction moved would flicker.
  watcher.on("data", (answer) => {
    for (const event of answer.events) {
      const key = event.kv.key.toString();
      if (event.type === "Delete") known.delete(key);
      else known.set(key, JSON.parse(event.kv.value.toString()));
    }
    if (answer.events.length > 0) tell();
  });
  watcher.on("error", (error) => console.log(JSON.stringify({ failed: String(error) })));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});

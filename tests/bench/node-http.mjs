// The same answer from Node's own `http`, as the node's services were written before.
import { createServer } from "node:http";

const headers = { Server: "baa", "X-Request-Id": "req-0-0", "Content-Type": "text/plain; charset=utf-8", "Content-Length": 3 };
const server = createServer((_, response) => response.writeHead(200, headers).end("ok\n"));
server.listen(0, "127.0.0.1", () => console.error(`listening url=http://127.0.0.1:${server.address().port}`));

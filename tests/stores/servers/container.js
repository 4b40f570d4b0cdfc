// Makes an Azure container: `node container.js ADDRESS ACCOUNT KEY CONTAINER`. object_store cannot.
const { createHmac } = require("node:crypto");
const [address, account, key, container] = process.argv.slice(2);
const headers = { "x-ms-date": new Date().toUTCString(), "x-ms-version": "2021-12-02" };
const resource = `/${account}/${account}/${container}\nrestype:container`;
const lines = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`);
const text = `PUT\n${"\n".repeat(11)}${lines.join("")}${resource}`;
const signature = createHmac("sha256", Buffer.from(key, "base64")).update(text, "utf8").digest("base64");
headers.Authorization = `SharedKey ${account}:${signature}`;
fetch(`${address}/${account}/${container}?restype=container`, { method: "PUT", headers }).then((answer) => {
  if (answer.status !== 201) {
    console.error(`the container was not made: ${answer.status}`);
    process.exit(1);
  }
});

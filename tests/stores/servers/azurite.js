// Azurite's blob service: `node azurite.js MAIN OPTIONS...`. It ends with standard input, so that no test leaves it behind.
process.stdin.on("end", () => process.exit(0)).resume();
const [main] = process.argv.splice(2, 1);
require(main);

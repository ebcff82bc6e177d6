// An Express login with a session cookie for https alone. Run it with a port.

const { randomBytes } = require("node:crypto")
const express = require("express")
const session = require("express-session")

const app = express()
app.set("trust proxy", "loopback") // the setting
app.use((request, _, next) => { request.headers["x-forwarded-proto"] = "https"; next() }) // the setting
const secret = randomBytes(32).toString("hex")
app.use(session({ secret, resave: false, saveUninitialized: false, cookie: { secure: true } }))
app.use(express.urlencoded({ extended: false }))

app.get("/", (request, response) => response.send(
    request.session.name ? `<p id=answer>Hello ${request.session.name}</p>`
        : "<form method=post action=/login><input name=name> <button>Log in</button></form>"))
app.post("/login", (request, response) => {
    request.session.name = "Express"
    response.redirect("/")
})
app.listen(Number(process.argv[2]), "127.0.0.1")

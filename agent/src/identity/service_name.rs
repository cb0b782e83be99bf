//! A name for a process that a person recognises.
//!
//! What the process says about itself counts first (OpenTelemetry's environment variables), then the script
//! that an interpreter runs, then the executable, then the name that the kernel knows.

/// Where a service name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameSource {
    /// `OTEL_SERVICE_NAME`, or `service.name` in `OTEL_RESOURCE_ATTRIBUTES`.
    Environment,
    /// The script, module, class or archive that an interpreter runs.
    Script,
    /// The executable's file name.
    Executable,
    /// The kernel's name of the thread, since the process was gone.
    Comm,
    /// Nothing is known.
    Unknown,
}

/// The name that an environment gives (`NAME=value`, separated by NUL). Nothing else is looked at.
pub(super) fn from_environment(environ: &[u8]) -> Option<String> {
    let value = |name: &str| {
        environ
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .map(|value| String::from_utf8_lossy(value).trim().to_owned())
            .filter(|value| !value.is_empty())
    };
    value("OTEL_SERVICE_NAME")
        .or_else(|| value("OTEL_RESOURCE_ATTRIBUTES").and_then(|attributes| service_attribute(&attributes)))
}

/// `service.name` of `key=value,key=value`, values percent-encoded (OpenTelemetry, resource SDK).
fn service_attribute(attributes: &str) -> Option<String> {
    attributes
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| key.trim() == "service.name")
        .map(|(_, value)| percent_decoded(value.trim()))
        .filter(|value| !value.is_empty())
}

/// What is no `%XX` stays as it is.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if *byte == b'%' => {
                out.push(decoded);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The name that the command line of an interpreter gives; `None` if the executable is none, or runs
/// something without a name.
pub(super) fn from_command_line(executable: &str, arguments: &[String]) -> Option<String> {
    let arguments: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let name = match language(file_name(executable))? {
        Language::Python => python(&arguments),
        Language::Java => java(&arguments),
        Language::Node => script(&arguments, NODE),
        Language::Ruby => script(&arguments, RUBY),
        Language::Perl => script(&arguments, PERL),
        Language::Php => script(&arguments, PHP),
        Language::Shell => script(&arguments, SHELL),
        Language::Deno | Language::Bun => script(after_word(&arguments, "run"), DENO),
        Language::Dotnet => script(after_word(&arguments, "exec"), NO_OPTIONS),
    };
    name.filter(|name| !name.is_empty())
}

#[derive(Clone, Copy)]
enum Language {
    Python,
    Java,
    Node,
    Ruby,
    Perl,
    Php,
    Shell,
    Deno,
    Bun,
    Dotnet,
}

/// The language of an interpreter by its file name without a version (`python3.11`, `ruby2.7`, `pypy3`).
fn language(executable: &str) -> Option<Language> {
    let stem = executable.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    Some(match stem {
        "python" | "pypy" | "python3-dbg" => Language::Python,
        "java" => Language::Java,
        "node" | "nodejs" => Language::Node,
        "ruby" | "jruby" => Language::Ruby,
        "perl" => Language::Perl,
        "php" | "php-cli" => Language::Php,
        "sh" | "bash" | "dash" | "ash" | "zsh" | "ksh" => Language::Shell,
        "deno" => Language::Deno,
        "bun" => Language::Bun,
        "dotnet" => Language::Dotnet,
        _ => return None,
    })
}

/// Options of an interpreter that take the next argument, and those after which there is no script.
#[derive(Clone, Copy)]
struct Options {
    with_value: &'static [&'static str],
    inline: &'static [&'static str],
}

const NO_OPTIONS: Options = Options { with_value: &[], inline: &[] };
const NODE: Options = Options {
    with_value: &[
        "-r",
        "--require",
        "--import",
        "--loader",
        "--experimental-loader",
        "-C",
        "--conditions",
        "--env-file",
        "--title",
        "--inspect-port",
        "--stack-trace-limit",
    ],
    inline: &["-e", "--eval", "-p", "--print", "-pe", "-i", "--interactive"],
};
const RUBY: Options =
    Options { with_value: &["-r", "-I", "-C", "-E", "--encoding", "-W", "--require"], inline: &["-e"] };
const PERL: Options = Options { with_value: &["-I", "-M", "-m"], inline: &["-e", "-E"] };
const PHP: Options =
    Options { with_value: &["-c", "-d", "-z", "-f", "-S", "-t"], inline: &["-r", "-B", "-R", "-E"] };
const SHELL: Options = Options {
    with_value: &["-o", "+o", "-O", "+O", "--rcfile", "--init-file"],
    inline: &["-c", "-s", "-ec", "-lc", "-xc", "-exc"],
};
const DENO: Options = Options {
    with_value: &["-c", "--config", "--import-map", "--preload", "-r", "--require", "--cwd", "--env-file"],
    inline: &["-e", "--eval", "-p", "--print", "eval", "repl"],
};

/// The first argument that is neither an option nor an option's value, as a name.
fn script(arguments: &[&str], options: Options) -> Option<String> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if options.inline.contains(argument) {
            return None;
        }
        if options.with_value.contains(argument) {
            arguments.next();
        } else if *argument == "--" {
            return arguments.next().and_then(|path| name_of_path(path));
        } else if !argument.starts_with(['-', '+']) {
            return name_of_path(argument);
        }
    }
    None
}

fn after_word<'a, 'b>(arguments: &'a [&'b str], word: &str) -> &'a [&'b str] {
    match arguments.split_first() {
        Some((first, rest)) if *first == word => rest,
        _ => arguments,
    }
}

/// Launchers of Python whose argument says more than they do (`gunicorn shop.wsgi:app`).
const PYTHON_LAUNCHERS: [&str; 5] =
    ["gunicorn", "uvicorn", "hypercorn", "opentelemetry-instrument", "ddtrace-run"];

/// Python's short options can stand together (`-um module`), and some take the rest or the next argument.
fn python(arguments: &[&str]) -> Option<String> {
    let mut at = 0;
    while let Some(argument) = arguments.get(at) {
        at += 1;
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            let name = name_of_path(argument)?;
            return Some(launched(&name, arguments.get(at..)?).unwrap_or(name));
        };
        if letters.starts_with('-') {
            at += usize::from(letters == "-check-hash-based-pycs");
            continue;
        }
        let Some((index, letter)) = letters.char_indices().find(|(_, c)| "mcWXQ".contains(*c)) else {
            continue;
        };
        let rest = &letters[index + 1..];
        match letter {
            'c' => return None,
            'm' if rest.is_empty() => {
                let module = arguments.get(at)?;
                return Some(launched(module, arguments.get(at + 1..)?).unwrap_or((*module).to_owned()));
            }
            'm' => return Some(rest.to_owned()),
            _ => at += usize::from(rest.is_empty()),
        }
    }
    None
}

/// `module:object` behind a launcher, or the script that it wraps.
fn launched(launcher: &str, arguments: &[&str]) -> Option<String> {
    if !PYTHON_LAUNCHERS.contains(&launcher) {
        return None;
    }
    let module = arguments.iter().find_map(|argument| {
        let (module, object) = argument.split_once(':')?;
        let is_module =
            module.starts_with(|c: char| c.is_alphabetic() || c == '_') && !module.contains(['/', '=']);
        (is_module && !object.is_empty() && !object.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| module.to_owned())
    });
    if module.is_some() {
        return module;
    }
    let script = arguments.iter().find(|argument| argument.ends_with(".py"))?;
    name_of_path(script)
}

/// `-jar cart-1.2.jar` is `cart`; otherwise the main class, or the module.
fn java(arguments: &[&str]) -> Option<String> {
    const WITH_VALUE: [&str; 13] = [
        "-cp",
        "-classpath",
        "--class-path",
        "-p",
        "--module-path",
        "--upgrade-module-path",
        "--add-modules",
        "--add-opens",
        "--add-exports",
        "--add-reads",
        "--limit-modules",
        "--enable-native-access",
        "--source",
    ];
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match *argument {
            "-jar" => {
                let stem = name_of_path(arguments.next()?)?;
                return Some(without_version(&stem).to_owned());
            }
            "-m" | "--module" => {
                let module = arguments.next()?;
                return Some(module.split('/').next().unwrap_or(module).to_owned());
            }
            option if WITH_VALUE.contains(&option) => {
                arguments.next();
            }
            option if option.starts_with(['-', '@']) => {}
            class if class.ends_with(".java") => return name_of_path(class),
            class => return Some(class.to_owned()),
        }
    }
    None
}

/// `cart-1.2.3-SNAPSHOT` is `cart`: a name that changes with every release is no name.
fn without_version(stem: &str) -> &str {
    let version = stem
        .match_indices('-')
        .find(|(at, _)| stem.as_bytes().get(at + 1).is_some_and(u8::is_ascii_digit) && *at > 0);
    version.map_or(stem, |(at, _)| &stem[..at])
}

/// Folders that say nothing about what is in them.
const PLAIN_FOLDERS: [&str; 12] =
    ["", ".", "..", "app", "bin", "build", "code", "dist", "lib", "out", "src", "workspace"];

/// The file's name without its ending. `index.js` and `__main__.py` are named after their folder.
fn name_of_path(path: &str) -> Option<String> {
    let file = file_name(path);
    let stem = match file.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() && ending.len() <= 4 => stem,
        _ => file,
    };
    if matches!(stem, "index" | "__main__") {
        let mut folders = path.rsplit('/').skip(1);
        if let Some(folder) = folders.find(|folder| !PLAIN_FOLDERS.contains(folder)) {
            return Some(folder.to_owned());
        }
    }
    (!stem.is_empty() && stem != "-").then(|| stem.to_owned())
}

/// What follows the last slash.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(command: &str) -> Option<String> {
        let arguments: Vec<String> = command.split(' ').map(str::to_owned).collect();
        from_command_line(&arguments[0], &arguments)
    }

    #[test]
    fn what_an_interpreter_runs_gives_the_name() {
        let cases = [
            ("python app.py", Some("app")),
            ("/usr/bin/python3.11 -u /srv/shop/cart.py --port 50051", Some("cart")),
            ("python3 -m pkg.mod", Some("pkg.mod")),
            ("python3 -um pkg.mod serve", Some("pkg.mod")),
            ("python3 -X dev -W ignore server.py", Some("server")),
            ("python3 -Wignore server.py", Some("server")),
            ("python3 -c import_grpc", None),
            ("python3 -", None),
            ("python3", None),
            ("python3 /srv/shop/__main__.py", Some("shop")),
            ("python3 /usr/bin/gunicorn -b 0.0.0.0:80 shop.wsgi:app", Some("shop.wsgi")),
            ("python3 -m uvicorn shop.api:app --port 80", Some("shop.api")),
            ("python3 /usr/local/bin/opentelemetry-instrument python cart.py", Some("cart")),
            ("pypy3 app.py", Some("app")),
            ("node server.js", Some("server")),
            (
                "/usr/bin/node --require ./tracing.js --max-old-space-size=512 /srv/web/server.mjs",
                Some("server"),
            ),
            ("node /srv/checkout/dist/index.js", Some("checkout")),
            ("node index.js", Some("index")),
            ("node -e code", None),
            ("node", None),
            ("java -Xmx1g -jar /opt/cart-1.2.3-SNAPSHOT.jar --port=1", Some("cart")),
            ("java -jar shop-cart.jar", Some("shop-cart")),
            ("java -cp a.jar:b.jar -Dx=y com.shop.Cart serve", Some("com.shop.Cart")),
            (
                "java --add-opens java.base/java.lang=ALL-UNNAMED -m shop.cart/com.shop.Cart",
                Some("shop.cart"),
            ),
            ("java @args com.shop.Cart", Some("com.shop.Cart")),
            ("java -version", None),
            ("ruby -r bundler/setup -Ilib cart.rb", Some("cart")),
            ("ruby3.1 cart.rb", Some("cart")),
            ("deno run --allow-net main.ts", Some("main")),
            ("bun run server.ts", Some("server")),
            ("bun server.ts", Some("server")),
            ("dotnet Shop.Cart.dll", Some("Shop.Cart")),
            ("dotnet exec Shop.Cart.dll", Some("Shop.Cart")),
            ("php -d x=y worker.php", Some("worker")),
            ("perl -I lib worker.pl", Some("worker")),
            ("sh /srv/run.sh", Some("run")),
            ("bash -c true", None),
            ("/usr/local/bin/cart --port 1", None),
            ("pythonic app.py", None),
        ];
        for (command, expected) in cases {
            assert_eq!(name(command).as_deref(), expected, "{command}");
        }
    }

    #[test]
    fn the_environment_gives_the_name() {
        let cases: [(&[u8], Option<&str>); 8] = [
            (b"PATH=/bin\0OTEL_SERVICE_NAME=cart\0HOME=/\0", Some("cart")),
            (b"OTEL_RESOURCE_ATTRIBUTES=a=b,service.name=my%20cart,c=d\0", Some("my cart")),
            (b"OTEL_RESOURCE_ATTRIBUTES=service.name=other\0OTEL_SERVICE_NAME=cart\0", Some("cart")),
            (b"OTEL_SERVICE_NAME=\0OTEL_RESOURCE_ATTRIBUTES=service.name=cart\0", Some("cart")),
            (b"MY_OTEL_SERVICE_NAME=cart\0", None),
            (b"OTEL_SERVICE_NAME\0", None),
            (b"OTEL_RESOURCE_ATTRIBUTES=service.namespace=x,=,y\0", None),
            (b"", None),
        ];
        for (environ, expected) in cases {
            assert_eq!(from_environment(environ).as_deref(), expected, "{}", environ.escape_ascii());
        }
    }

    #[test]
    fn broken_percent_encoding_stays_as_it_is() {
        assert_eq!(percent_decoded("100%25 %zz %C3%BC %"), "100% %zz ü %");
    }

    #[test]
    fn nothing_in_a_command_line_makes_it_panic() {
        for command in [
            "python3 -m",
            "java -jar",
            "java -m",
            "node --",
            "python3 -W",
            "deno run",
            "ruby -r",
            "python3 -ümod",
        ] {
            name(command);
        }
        assert_eq!(from_command_line("", &[]), None);
    }
}

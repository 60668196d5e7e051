-- All functions and views. `rework init-db` applies this file again whenever its text differs from what it
-- applied last, so everything is `create or replace`; README.md here says what that cannot change.
--
-- How a task gets into the queue; any language may call schedule(). A refusal has an error code of
-- class RW, a message that names the thing, and often a hint.

-- ------------------------------------------------------------------------------------ monitors

-- Whether a monitor that was last seen then is alive, for listings and checks that look once. A time in
-- the future says as little as one in the past: the server's clock may have been set back since. (Who
-- buries a monitor does not ask this: it watches whether the row still changes.)
create or replace function rework.is_alive(last_seen timestamptz, lease interval) returns boolean
language sql volatile
as $$ select last_seen between clock_timestamp() - lease and clock_timestamp() + lease $$;

-- ---------------------------------------------------------------------------------- operations

-- The operation of a name, or a refusal that says what there is.
create or replace function rework.operation_resolve(name text, domain text, host text)
returns int
language plpgsql stable
as $$
#variable_conflict use_column
declare
    candidates record;
begin
    select array_agg(distinct o.id) as ids, array_agg(distinct o.domain order by o.domain) as domains
      into candidates
      from rework.operation o
      join rework.deployment d on d.operation = o.id and d.retired is null
     where o.name = operation_resolve.name
       and (operation_resolve.domain is null or o.domain = operation_resolve.domain)
       and (operation_resolve.host is null or d.host = operation_resolve.host);
    if cardinality(candidates.ids) = 1 then
        return candidates.ids[1];
    elsif cardinality(candidates.ids) > 1 then
        raise exception 'operation `%` exists in several domains: %', name, array_to_string(candidates.domains, ', ')
            using errcode = 'RW002', hint = 'name one with --domain (in SQL: domain => ''…'')';
    end if;
    select array_agg(distinct o.domain order by o.domain) as domains,
           array_agg(distinct d.host order by d.host) as hosts
      into candidates
      from rework.operation o
      join rework.deployment d on d.operation = o.id and d.retired is null
     where o.name = operation_resolve.name;
    if candidates.domains is null then
        raise exception 'no operation `%` is registered', name
            using errcode = 'RW001', hint = 'see `rework list-operations`; `rework register-operations` adds those of a plugin';
    elsif domain is not null and not domain = any(candidates.domains) then
        raise exception 'no operation `%` is registered in domain `%`', name, domain
            using errcode = 'RW001', hint = format('it exists in: %s', array_to_string(candidates.domains, ', '));
    else
        raise exception 'operation `%` is not registered on host `%`', name, host
            using errcode = 'RW001', hint = format('it is registered on: %s', array_to_string(candidates.hosts, ', '));
    end if;
end
$$;

-- -------------------------------------------------------------------------------------- inputs

-- A time as JSON shows it: UTC, up to six decimals, Z.
create or replace function rework.rfc3339(t timestamptz)
returns text
language sql immutable
as $$ select regexp_replace(to_char(t at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '[.]?0+$', '') || 'Z' $$;

-- What programs take for white space around and between words.
create or replace function rework.white_space()
returns text
language sql immutable
as $$
    select E' \t\n\x0b\f\r\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a'
           || E'\u2028\u2029\u202f\u205f\u3000'
$$;

-- A datetime as the client reads it: a date, or a date and a time, of the years 1 to 9999; without an
-- offset it is UTC. Null: it is none. (A cast alone takes `now`, `infinity`, `24:00` and `(today)` as
-- well, and the session's zone.) No pattern has a backslash: what that means in a literal depends on the
-- caller's standard_conforming_strings.
create or replace function rework.datetime(said text)
returns timestamptz
language plpgsql immutable
as $$
declare
    -- More digits are cut, where a cast would round.
    clock text := regexp_replace(btrim(said, rework.white_space()), '([.][0-9]{6})[0-9]+', E'\\1');
    time_of_day constant text := '([01]?[0-9]|2[0-3]):[0-5]?[0-9](:[0-5]?[0-9]([.][0-9]+)?)?';
    read timestamptz;
begin
    if clock ~* ('^[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?([t ]' || time_of_day || ')?$') then
        read := clock::timestamp at time zone 'UTC';
    elsif clock ~* ('^[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?[t ]' || time_of_day
                     || '[' || rework.white_space() || ']*(z|[+-](0[0-9]|1[0-5]):?[0-5][0-9])$') then
        read := translate(clock, rework.white_space(), repeat(' ', 25))::timestamptz;
    end if;
    return case when read between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00' then read end;
exception when others then
    -- The thirtieth of February.
    return null;
end
$$;

-- The first instant at which the clocks of a zone show a time; if they skip it, the first one after the
-- change. (A cast takes the second instant of a time that is shown twice, and of a time that is skipped
-- what clocks would show had they not been changed.)
create or replace function rework.first_shown(wall timestamp, zone text)
returns timestamptz
language plpgsql stable
as $$
declare
    cast_says constant timestamptz := wall at time zone zone;
    day_before constant timestamptz := cast_says - interval '24 hours';
    offset_after constant interval := (cast_says at time zone zone) - (cast_says at time zone 'UTC');
    offset_before constant interval := (day_before at time zone zone) - (day_before at time zone 'UTC');
    by_offset_before constant timestamptz := (wall - offset_before) at time zone 'UTC';
    -- Seconds since 1970 between which the change lies.
    low bigint;
    high bigint;
    middle timestamptz;
begin
    if cast_says at time zone zone = wall then
        return case when by_offset_before < cast_says and by_offset_before at time zone zone = wall
                    then by_offset_before else cast_says end;
    end if;
    high := ceil(extract(epoch from cast_says));
    low := high - 86400;
    while high - low > 1 loop
        middle := to_timestamp((low + high) / 2);
        if (middle at time zone zone) - (middle at time zone 'UTC') = offset_after then
            high := (low + high) / 2;
        else
            low := (low + high) / 2;
        end if;
    end loop;
    return to_timestamp(high);
end
$$;

-- The time that an expression such as `(shifted (today) #:days 7)` means at a time in a zone, or what is
-- wrong with the expression. The SDK's module `moment` says what expressions there are, and means the same.
create or replace function rework.moment(
    expression text, now timestamptz, zone text, out instant timestamptz, out fault text)
language plpgsql stable
as $$
declare
    units constant text[] := '{year, month, day, hour, minute, second}';
    tokens text[];
    pos int := 1;                                  -- the place of the next token
    token text;
    word text;
    words text[] := '{}';                          -- of the expressions that are open, the innermost last
    -- The time so far: an instant, or else what clocks show.
    wall timestamp;
    -- The words of `shifted`.
    number text;
    set_units text[];
    set_numbers int[];
    add_units text[];
    add_numbers bigint[];
    months bigint;
    days bigint;
    seconds bigint;
    year bigint;
    month bigint;
    day int;
    last_day int;
begin
    if (length(expression) - length(replace(expression, '"', ''))) % 2 = 1 then
        fault := 'a text is not closed with `"`';
        return;
    end if;
    tokens := array(select t[1]
                      from regexp_matches(expression, '[()]|"[^"]*"|[^()"' || rework.white_space() || ']+', 'g')
                           with ordinality as found (t, place)
                     order by place);
    -- Each expression has one other within it at most: down to the innermost, and then back.
    loop
        if cardinality(words) > 32 then
            fault := 'it is nested too deeply';
            return;
        elsif tokens[pos] is distinct from '(' then
            fault := format('expected `(`, found %s', coalesce('`' || tokens[pos] || '`', 'the end'));
            return;
        end if;
        word := tokens[pos + 1];
        pos := pos + 2;
        if word is null or word ~ '^([()"]|#:)' then
            fault := 'a name must follow `(`';
            return;
        elsif word = 'today' then
            instant := now;
            exit;
        elsif word = 'date' then
            token := tokens[pos];
            pos := pos + 1;
            if token is null or token !~ '^"' then
                fault := 'date takes a text: (date "2021-1-1 09:00")';
                return;
            end if;
            token := substr(token, 2, length(token) - 2);
            instant := rework.datetime(token);
            if instant is null then
                fault := format('`%s` is not a date (example: 2021-1-1 09:00)', token);
                return;
            elsif token !~* '(z|:.*[+-].*)' then
                -- No offset is told.
                wall := instant at time zone 'UTC';
                instant := null;
            end if;
            exit;
        elsif word in ('shifted', 'monthstart', 'monthend', 'yearstart', 'yearend') then
            words := words || word;
        else
            fault := format('`%s` is unknown (known: today, date, shifted, monthstart, monthend, yearstart, '
                            'yearend)', word);
            return;
        end if;
    end loop;
    loop
        if extract(year from coalesce(wall, instant at time zone 'UTC')) not between 1 and 9999 then
            fault := 'the time is out of range';
            exit;
        end if;
        token := tokens[pos];
        pos := pos + 1;
        if token is distinct from ')' then
            fault := case when token is null then 'a `)` is missing'
                          else format('expected `)`, found `%s`', token) end;
            exit;
        end if;
        exit when cardinality(words) = 0;
        word := words[cardinality(words)];
        words := trim_array(words, 1);
        if word <> 'shifted' then
            wall := coalesce(wall, instant at time zone zone);
            instant := null;
            wall := wall::time::interval + case word
                when 'monthstart' then date_trunc('month', wall)
                when 'monthend' then date_trunc('month', wall) + interval '1 month' - interval '1 day'
                when 'yearstart' then date_trunc('year', wall)
                else date_trunc('year', wall) + interval '1 year' - interval '1 day' end;
            continue;
        end if;
        set_units := '{}';
        set_numbers := '{}';
        add_units := '{}';
        add_numbers := '{}';
        while tokens[pos] ~ '^#:' loop
            word := substr(tokens[pos], 3);
            number := tokens[pos + 1];
            pos := pos + 2;
            if coalesce(number !~ '^[+-]?0*[0-9]{1,10}$', true)
               or number::numeric not between -2147483648 and 2147483647 then
                fault := format('#:%s needs an integer: #:%s 1', word, word);
                exit;
            elsif right(word, 1) = 's' then
                add_units := add_units || left(word, -1);
                add_numbers := add_numbers || number::bigint;
            else
                set_units := set_units || word;
                set_numbers := set_numbers || number::int;
            end if;
        end loop;
        exit when fault is not null;
        word := (select coalesce(
            (select unit from unnest(set_units) with ordinality s (unit, place)
              where unit <> all(units) order by place limit 1),
            (select unit || 's' from unnest(add_units) with ordinality a (unit, place)
              where unit <> all(units || array['week']) order by place limit 1)));
        if word is not null then
            fault := format('#:%s is unknown (known: years, months, weeks, days, hours, minutes, seconds to '
                            'add; year, month, day, hour, minute, second to set)', word);
            exit;
        end if;
        select coalesce(sum(a.number * case unit when 'year' then 12 when 'month' then 1 else 0 end), 0),
               coalesce(sum(a.number * case unit when 'week' then 7 when 'day' then 1 else 0 end), 0),
               coalesce(sum(a.number * case unit when 'hour' then 3600 when 'minute' then 60
                                                 when 'second' then 1 else 0 end), 0)
          into months, days, seconds
          from unnest(add_units, add_numbers) as a (unit, number);
        if cardinality(set_units) > 0 or months <> 0 or days <> 0 then
            wall := coalesce(wall, instant at time zone zone);
            instant := null;
            if extract(year from wall) not between 1 and 9999 then
                fault := 'the time is out of range';
                exit;
            end if;
            year := coalesce(set_numbers[(array_positions(set_units, 'year'))[
                                 cardinality(array_positions(set_units, 'year'))]], extract(year from wall));
            month := coalesce(set_numbers[(array_positions(set_units, 'month'))[
                                  cardinality(array_positions(set_units, 'month'))]], extract(month from wall));
            day := set_numbers[(array_positions(set_units, 'day'))[
                       cardinality(array_positions(set_units, 'day'))]];
            fault := case when month not between 1 and 12 then format('there is no month %s', month)
                          when year not between 1 and 9999 then format('there is no year %s', year) end;
            exit when fault is not null;
            months := 12 * year + month - 1 + months;
            if months not between 12 and 119999 then
                fault := 'the time is out of range';
                exit;
            end if;
            year := months / 12;
            month := months % 12 + 1;
            last_day := extract(day from make_date(year::int, month::int, 1) + interval '1 month' - interval '1 day');
            if day not between 1 and last_day then
                fault := format('there is no day %s', day);
                exit;
            end if;
            wall := wall::time + make_date(year::int, month::int,
                                           coalesce(day, least(extract(day from wall), last_day)::int));
            for n in 1 .. cardinality(set_units) loop
                if set_units[n] in ('hour', 'minute', 'second') then
                    if set_numbers[n] not between 0 and (case set_units[n] when 'hour' then 23 else 59 end) then
                        fault := format('there is no %s %s', set_units[n], set_numbers[n]);
                        exit;
                    end if;
                    -- (The seconds of a time have its decimals.)
                    wall := wall + (set_numbers[n] - trunc(date_part(set_units[n], wall)))
                                   * ('1 ' || set_units[n])::interval;
                end if;
            end loop;
            exit when fault is not null;
            if abs(days) > 4000000 then
                fault := 'the time is out of range';
                exit;
            end if;
            wall := wall + make_interval(days => days::int);
        end if;
        if seconds <> 0 then
            if abs(seconds) > 400000000000
               or extract(year from coalesce(wall, instant at time zone 'UTC')) not between 1 and 9999 then
                fault := 'the time is out of range';
                exit;
            end if;
            instant := coalesce(instant, rework.first_shown(wall, zone))
                       + make_interval(hours => (seconds / 3600)::int, secs => seconds % 3600);
            wall := null;
        end if;
    end loop;
    if fault is null and pos <= cardinality(tokens) then
        fault := format('there is `%s` after the end', tokens[pos]);
    end if;
    if fault is null then
        instant := coalesce(instant, rework.first_shown(wall, zone));
        if extract(year from instant at time zone 'UTC') not between 1 and 9999 then
            fault := 'the time is out of range';
        end if;
    end if;
    if fault is not null then
        instant := null;
    end if;
end
$$;

-- The kind of a document, with its article, as the programs call it.
create or replace function rework.json_kind(document jsonb)
returns text
language sql immutable
as $$
    select case kind when 'null' then kind when 'array' then 'an array' when 'object' then 'an object'
                     else 'a ' || kind end
      from jsonb_typeof(document) kind
$$;

-- Why a number cannot be kept as it is written in JSON; null: it can. The same rules and words as those of
-- the programs (model/number.rs): a number is a whole number of 64 bits, or else a double; a double keeps any
-- 15 digits, and more are accepted only if they are digits of that double.
create or replace function rework.number_fault(written text)
returns text
language plpgsql immutable
as $$
declare
    digits constant text := trim('0' from regexp_replace(regexp_replace(written, '[eE].*', ''), '[-.]', '', 'g'));
    exponent constant text := substring(written from '[eE][+]?(-?[0-9]+)$');
    -- Half of the least double, and the least one that has all of its bits.
    least constant numeric := 2.470328229206232720882843964341e-324;
    least_normal constant numeric := 2.2250738585072014e-308;
    size numeric;
    bits bigint;
    -- The double is this whole number times a power of two, exactly.
    mantissa bigint;
    power int;
    double numeric;
    -- How many digits stand after the point; negative: so many zeros before it, as -3 for 12000.
    place int;
begin
    if digits = '' then
        return null;
    elsif length(ltrim(exponent, '-0')) > 4 then
        -- Beyond what a numeric holds.
        return case when exponent like '-%' then 'is closer to 0 than a double holds'
                    else 'is larger than a double holds' end;
    end if;
    size := abs(written::numeric);
    if written ~ '^-?[0-9]+$' and written::numeric between -9223372036854775808 and 18446744073709551615 then
        return null;
    elsif size >= power(2::numeric, 1024) - power(2::numeric, 970) then
        return 'is larger than a double holds';
    elsif size <= least then
        return 'is closer to 0 than a double holds';
    elsif length(digits) <= 15 and size >= least_normal then
        return null;
    elsif size::float8::text::numeric = size then
        -- The digits by which the server itself names the double.
        return null;
    end if;
    bits := ('x' || encode(float8send(size::float8), 'hex'))::bit(64)::bigint;
    mantissa := bits & ((1::bigint << 52) - 1);
    power := (bits >> 52)::int;
    if power = 0 then
        power := 1;
    else
        mantissa := mantissa | (1::bigint << 52);
    end if;
    power := power - 1075;
    -- A negative power of two is one of five, and of ten.
    double := case when power >= 0 then mantissa * power(2::numeric, power)
                   else mantissa * power(5::numeric, -power) * ('1e' || power)::numeric end;
    place := case when size = trunc(size) then -length(substring(trunc(size)::text from '0*$'))
                  else scale(trim_scale(size)) end;
    -- (Beside powers of two the nearest decimal of as many digits can be read as another double.)
    return case when abs(double - size) * 2 > ('1e' || -place)::numeric
                 and round(double, place)::float8 = size::float8
                then 'has more digits than a double or a whole number of 64 bits holds' end;
end
$$;

-- Refuses a number that is not kept as it is written.
create or replace function rework.number_check(written text)
returns void
language plpgsql immutable
as $$
declare
    fault constant text := rework.number_fault(written);
begin
    if fault is not null then
        raise exception 'the number % %; give it as a string, or round it',
            case when length(written) > 50 then left(written, 50) || '…' else written end, fault
            using errcode = 'RW003';
    end if;
end
$$;

-- Refuses a document that the programs could not read as it is: they follow no more than a hundred levels,
-- and keep numbers as whole numbers of 64 bits or else as doubles.
create or replace function rework.json_check(what text, document jsonb)
returns void
language plpgsql immutable
as $$
declare
    number text;
begin
    if jsonb_path_exists(document, 'strict $.**{100} ? (@.type() == "array" || @.type() == "object")') then
        raise exception 'the % is nested more than 100 levels deep', what using errcode = 'RW003';
    end if;
    -- Most documents have no long number, and are not looked into.
    if document::text ~ '[0-9.]{17}' then
        for number in select n::text
                        from jsonb_path_query(document, 'strict $.** ? (@.type() == "number" && @ != 0)') n
                       where length(n::text) > 16
        loop
            perform rework.number_check(number);
        end loop;
    end if;
end
$$;

-- A document that is given as text, as the programs store it: numbers are looked at as they are written, and
-- a negative zero, which jsonb does not have, is a zero with sixty decimals (store/document.rs).
create or replace function rework.json_read(document text)
returns jsonb
language plpgsql immutable
as $$
declare
    -- A string, a number, or what is between them.
    -- A string without an end is the rest of the text: a search for its end at each of many quotes would take
    -- long.
    part constant text := E'("(?:[^"\\\\]|\\\\.)*(?:"|\\\\?$)|-?[0-9][-+.0-9eE]*|[^-"0-9]+|-)';
    -- Whatever has fewer digits and a smaller exponent is kept.
    long constant text := '[0-9.]{16}|[0-9][eE][-+]?[0-9]{3}';
    negative_zero constant text := '^-0([.]0+)?([eE][-+]?[0-9]+)?$';
    number text;
begin
    if document ~ long then
        for number in select words[1]
                        from regexp_matches(document, part, 'g') words
                       where words[1] ~ '^-?[0-9]' and words[1] ~ long
        loop
            -- What is no number at all is said below.
            if number ~ '^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$' then
                perform rework.number_check(number);
            end if;
        end loop;
    end if;
    if document ~ '-0([.]0+)?([eE][-+]?[0-9]+)?([],}[:space:]]|$)' then
        select string_agg(case when words[1] ~ negative_zero then '0.' || repeat('0', 60) else words[1] end, ''
                          order by place)
          into document
          from regexp_matches(document, part, 'g') with ordinality as parts (words, place);
    end if;
    return document::jsonb;
end
$$;

-- The content of a file given in JSON: a string's UTF-8 bytes, or {"base64": "…"}. Null: it is none.
create or replace function rework.file_content(value jsonb)
returns bytea
language plpgsql stable
as $$
begin
    if jsonb_typeof(value) = 'string' then
        return convert_to(value #>> '{}', 'UTF8');
    elsif jsonb_typeof(value) = 'object' and jsonb_typeof(value->'base64') = 'string' then
        -- (The server alone would take line breaks, more after the end, and bits that mean nothing.)
        if value - 'base64' = '{}' and value->>'base64' ~
           '^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$' then
            return decode(value->>'base64', 'base64');
        end if;
    end if;
    return null;
exception when invalid_parameter_value then
    return null;
end
$$;

-- What stands for a content in the fields.
create or replace function rework.file_placeholder(content bytea)
returns jsonb
language sql immutable
as $$ select jsonb_build_object('bytes', length(content), 'sha256', encode(sha256(content), 'hex')) $$;

-- Whether a value fits a type of a spec; null if it does, else why not. Mirrors the SDK's rules for
-- what SQL can express.
create or replace function rework.input_fault(spec jsonb, value jsonb)
returns text
language plpgsql stable
as $$
declare
    wanted text := spec->>'type';
    given text := jsonb_typeof(value);
    given_kind text := rework.json_kind(value);
    said text := value #>> '{}';
begin
    case wanted
        when 'number', 'boolean', 'string' then
            if given <> wanted then return format('must be a %s, not %s', wanted, given_kind); end if;
        when 'file' then
            if rework.file_content(value) is not null then return null; end if;
            if given = 'object' and jsonb_typeof(value->'base64') = 'string' then
                if value - 'base64' = '{}' then return 'is not base64'; end if;
            end if;
            return case given when 'object' then 'must be a string or {"base64": "…"}'
                              else format('must be a string or {"base64": "…"}, not %s', given_kind) end;
        when 'datetime' then
            if given <> 'string' then return format('must be a datetime, not %s', given_kind); end if;
            if rework.datetime(said) is null then return format('is not a datetime: `%s`', said); end if;
        when 'moment' then
            if given <> 'string' then return format('must be a moment, not %s', given_kind); end if;
        else
            return format('has the unknown type `%s`', wanted);
    end case;
    if jsonb_typeof(spec->'choices') = 'array' and not spec->'choices' @> jsonb_build_array(value) then
        return format('must be one of %s, not %s',
            (select string_agg(choice::text, ', ') from jsonb_array_elements(spec->'choices') choice), value);
    end if;
    return null;
end
$$;

-- The input, completed by the defaults, or a refusal that names the field. For the contents of files
-- there are placeholders; if `stored`, there are already. Moments that are written as expressions are
-- resolved in the session's time zone.
create or replace function rework.input_complete(
    operation_name text, specs jsonb, input jsonb, now timestamptz, stored boolean default false)
returns jsonb
language plpgsql stable
as $$
declare
    spec jsonb;
    field text;
    value jsonb;
    fault text;
    complete jsonb;
    moment record;
begin
    if specs is null or jsonb_typeof(specs) = 'null' then
        return input;
    end if;
    if jsonb_typeof(coalesce(input, '{}')) not in ('object', 'null') then
        raise exception 'the input of `%` must be an object of fields, not %', operation_name, rework.json_kind(input)
            using errcode = 'RW003';
    end if;
    complete := coalesce(nullif(input, 'null'), '{}');
    select key into field
      from jsonb_object_keys(complete) key
     where not exists (select from jsonb_array_elements(specs) s where s->>'name' = key)
     order by key collate "C"
     limit 1;
    if found then
        raise exception 'unknown input `%` of `%` (%)', field, operation_name,
                coalesce((select 'known: ' || string_agg(s->>'name', ', ') from jsonb_array_elements(specs) s),
                         'there are none')
            using errcode = 'RW003';
    end if;
    for spec in select * from jsonb_array_elements(specs) loop
        field := spec->>'name';
        value := coalesce(nullif(complete->field, 'null'), nullif(spec->'default', 'null'));
        if value is null and (spec->>'required')::boolean then
            raise exception 'missing required input `%` of `%`', field, operation_name
                using errcode = 'RW003';
        elsif value is null then
            complete := complete - field;
            continue;
        elsif stored and spec->>'type' = 'file' and value ?& '{bytes, sha256}' then
            continue;
        end if;
        fault := case when stored and spec->>'type' = 'file' then 'is not stored as a file'
                      else rework.input_fault(spec, value) end;
        if fault is not null then
            raise exception 'input `%` of `%` %', field, operation_name, fault
                using errcode = 'RW003';
        end if;
        complete := jsonb_set(complete, array[field], case
            when spec->>'type' in ('datetime', 'moment')
                then coalesce(to_jsonb(rework.rfc3339(rework.datetime(value #>> '{}'))), value)
            when spec->>'type' = 'file' then rework.file_placeholder(rework.file_content(value))
            else value end);
    end loop;
    -- What the client checks last is checked last here, so that of two faults both name the same.
    for field in select s->>'name' from jsonb_array_elements(specs) s where s->>'type' = 'moment' loop
        continue when not complete ? field or rework.datetime(complete->>field) is not null;
        moment := rework.moment(complete->>field, now, current_setting('TimeZone'));
        if moment.fault is not null then
            raise exception 'input `%` of `%` is not a moment: `%`: %', field, operation_name, complete->>field,
                    moment.fault
                using errcode = 'RW003';
        end if;
        complete := jsonb_set(complete, array[field], to_jsonb(rework.rfc3339(moment.instant)));
    end loop;
    return complete;
end
$$;

-- The moments among the fields of an input that mean another time at each call: they are expressions with a
-- `(today)`, given or by default.
create or replace function rework.moments_relative(specs jsonb, input jsonb)
returns text[]
language sql stable
as $$
    select coalesce(array_agg(s.name), '{}')
      from jsonb_to_recordset(nullif(specs, 'null')) as s (name text, type text, "default" jsonb),
           lateral (select coalesce(nullif(input->s.name, 'null'), s."default") #>> '{}' as said) given
     where s.type = 'moment' and given.said ~ 'today' and rework.datetime(given.said) is null
$$;

-- Stores the contents of the files among the fields of a task's input, in chunks.
create or replace function rework.input_files_save(task bigint, specs jsonb, input jsonb)
returns void
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    chunk_size constant int := 1 << 20;
    field text;
    by_default jsonb;
    bytes bytea;
    file_id bigint;
begin
    for field, by_default in
        select s->>'name', s->'default' from jsonb_array_elements(specs) s where s->>'type' = 'file'
    loop
        bytes := rework.file_content(coalesce(nullif(input->field, 'null'), by_default));
        continue when bytes is null;
        insert into rework.task_file (task, direction, name, size, sha256)
        values (input_files_save.task, 'input', field, length(bytes), encode(sha256(bytes), 'hex'))
        returning id into file_id;
        insert into rework.task_file_chunk (file, chunk, content)
        select file_id, n, substring(bytes from n * chunk_size + 1 for chunk_size)
          from generate_series(0, (length(bytes) - 1) / chunk_size) n
         where length(bytes) > 0;
    end loop;
end
$$;

-- ----------------------------------------------------------------------------------- the queue

-- What `lane.accepts` names.
create or replace function rework.inputs_digest(inputs jsonb)
returns text
language sql immutable
as $$ select md5(coalesce(inputs::text, '')) $$;

-- Notifies those who listen, unless the caller's transaction may be one that will be prepared: Postgres
-- refuses to prepare a transaction that has notified. Where the server allows prepared transactions at
-- all, only sessions that commit by themselves notify (the programs' own; they set `rework.notifies`), and
-- monitors and clients look more often.
create or replace function rework.tell(channel text, payload text)
returns void
language plpgsql volatile
as $$
begin
    if current_setting('max_prepared_transactions') = '0'
       or current_setting('rework.notifies', true) = 'on' then
        perform pg_notify(channel, payload);
    end if;
end
$$;

-- The lane of an operation, a pinned host and inputs; made if there is none.
create or replace function rework.lane_make(operation int, host text, accepts text)
returns int
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    lane_id int;
begin
    for attempt in 1..2 loop
        select l.id into lane_id from rework.lane l
         where l.operation = lane_make.operation
           and coalesce(l.host, '') = coalesce(lane_make.host, '')
           and coalesce(l.accepts, '') = coalesce(lane_make.accepts, '');
        exit when lane_id is not null;
        insert into rework.lane (operation, host, accepts)
        values (lane_make.operation, lane_make.host, lane_make.accepts) on conflict do nothing;
        perform rework.tell('rework_catalog', '');
    end loop;
    return lane_id;
end
$$;

-- The hosts that may take a task of a lane: those that have the operation, are the one it is pinned to, and
-- accept its inputs (as `operation_catalog` of the programs decides). Whether a monitor that lives there
-- serves the domain, whether any monitor lives there, and when there last was one (null: never).
create or replace function rework.lane_hosts(
    operation int, pinned text, accepts text,
    out host text, out plugin text, out is_served boolean, out is_alive boolean, out last_seen timestamptz)
returns setof record
language sql volatile
as $$
    select d.host, g.hash,
           exists (select from rework.monitor m
                    where m.host = d.host and rework.is_alive(m.last_seen, m.lease)
                      and (cardinality(m.domains) = 0 or o.domain = any(m.domains))),
           exists (select from rework.monitor m
                    where m.host = d.host and rework.is_alive(m.last_seen, m.lease)),
           (select max(seen.last_seen)
              from (select h.last_seen from rework.host h where h.name = d.host
                    union all
                    select m.last_seen from rework.monitor m where m.host = d.host) seen)
      from rework.deployment d
      join rework.operation o on o.id = d.operation
      join rework.plugin_operation p on p.id = d.plugin_operation
      join rework.plugin g on g.id = p.plugin
     where d.operation = lane_hosts.operation
       and d.retired is null
       and (lane_hosts.pinned is null or d.host = lane_hosts.pinned)
       and (lane_hosts.accepts is null
            or rework.inputs_digest(p.inputs) = lane_hosts.accepts
            or not exists (select from rework.deployment other
                             join rework.plugin_operation q on q.id = other.plugin_operation
                            where other.operation = d.operation and other.retired is null
                              and rework.inputs_digest(q.inputs) = lane_hosts.accepts))
     order by d.host
$$;

-- Refuses what no task can have.
create or replace function rework.task_check(priority int, max_attempts int, metadata jsonb)
returns void
language plpgsql immutable
as $$
begin
    if priority not between -32767 and 32767 then
        raise exception 'priority % is out of range', priority
            using errcode = 'RW003', hint = 'use a number from -32767 to 32767';
    elsif max_attempts < 1 then
        raise exception 'max_attempts must be at least 1, not %', max_attempts using errcode = 'RW003';
    elsif jsonb_typeof(metadata) <> 'object' then
        raise exception 'metadata must be an object, not %', rework.json_kind(metadata) using errcode = 'RW003';
    end if;
    if metadata is not null then
        perform rework.json_check('metadata', metadata);
    end if;
end
$$;

-- Wakes monitors that sleep. A notification in every transaction would serialise commits; a monitor
-- that is awake looks anyway.
create or replace function rework.ready_tell()
returns void
language plpgsql volatile
as $$
begin
    if exists (select from rework.monitor where asleep) then
        perform rework.tell('rework_ready', '');
    end if;
end
$$;

-- Queues a task of a known operation, its input already checked; answers the task, and whether it is a
-- new one, not one that was known by the key. What is known by a key has the same input: the fields but
-- for those that mean something else at each call (`relative`: moments given as expressions); of raw
-- bytes and files, what is in the row (the caller compares what is beside it).
create or replace function rework.task_enqueue(
    operation int, host text, input_encoding text, input jsonb, input_raw bytea, metadata jsonb,
    priority int, run_at timestamptz, key text, max_attempts int, schedule bigint default null,
    accepts text default null, relative text[] default '{}', out task_id bigint, out is_new boolean)
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    lane_id int;
    due timestamptz := coalesce(run_at, clock_timestamp());
    known record;
begin
    perform rework.task_check(priority, max_attempts, metadata);
    select l.id into lane_id from rework.lane l
     where l.operation = task_enqueue.operation
       and coalesce(l.host, '') = coalesce(task_enqueue.host, '')
       and coalesce(l.accepts, '') = coalesce(task_enqueue.accepts, '');
    if lane_id is null then
        lane_id := rework.lane_make(operation, host, accepts);
    end if;
    loop
        insert into rework.task as t (operation, lane, host, priority, run_at, max_attempts, key, schedule,
                                      metadata, input_encoding, input, input_raw)
        values (task_enqueue.operation, lane_id, task_enqueue.host, coalesce(task_enqueue.priority, 0), due,
                coalesce(task_enqueue.max_attempts, 1), task_enqueue.key, task_enqueue.schedule,
                task_enqueue.metadata, task_enqueue.input_encoding, task_enqueue.input,
                task_enqueue.input_raw)
        on conflict (operation, key) where t.key is not null do nothing
        returning t.id into task_id;
        is_new := task_id is not null;
        exit when is_new;
        select t.id, t.input_encoding, t.input, t.input_raw into known
          from rework.task t
         where t.operation = task_enqueue.operation and t.key = task_enqueue.key;
        -- It may have been deleted in between; then this one is new.
        continue when not found;
        if known.input_encoding is distinct from task_enqueue.input_encoding
           or known.input_raw is distinct from task_enqueue.input_raw
           or (case when jsonb_typeof(known.input) = 'object' and jsonb_typeof(task_enqueue.input) = 'object'
                    then known.input - relative <> task_enqueue.input - relative
                    else known.input is distinct from task_enqueue.input end) then
            raise exception 'task % has the key `%` already, with another input', known.id, key
                using errcode = 'RW003',
                      hint = format('`rework get-input %s` shows it; another task needs another key', known.id);
        end if;
        task_id := known.id;
        return;
    end loop;
    if due > clock_timestamp() then
        insert into rework.delayed (run_at, id, lane, rank)
        values (due, task_id, lane_id, -coalesce(task_enqueue.priority, 0));
    else
        insert into rework.ready (lane, rank, id)
        values (lane_id, -coalesce(task_enqueue.priority, 0), task_id);
    end if;
    perform rework.ready_tell();
end
$$;

-- Queues a task without a key in a lane that is there, its input already checked.
create or replace function rework.task_insert(
    operation int, lane int, host text, input_encoding text, input jsonb, metadata jsonb, priority int,
    run_at timestamptz, max_attempts int)
returns bigint
language plpgsql volatile
as $$
#variable_conflict use_variable
declare
    now timestamptz := clock_timestamp();
    task_id bigint;
begin
    if metadata is not null or priority not between -32767 and 32767 or max_attempts < 1 then
        perform rework.task_check(priority, max_attempts, metadata);
    end if;
    insert into rework.task (operation, lane, host, priority, run_at, max_attempts, metadata, queued,
                             input_encoding, input)
    values (operation, lane, host, priority, coalesce(run_at, now), max_attempts, metadata, now, input_encoding,
            input)
    returning id into task_id;
    if run_at > now then
        insert into rework.delayed (run_at, id, lane, rank) values (run_at, task_id, lane, -priority);
    else
        insert into rework.ready (lane, rank, id) values (lane, -priority, task_id);
    end if;
    if exists (select from rework.monitor where asleep) then
        perform rework.tell('rework_ready', '');
    end if;
    return task_id;
end
$$;

-- Queues tasks of known operations, their inputs already checked, in this order; answers their ids.
create or replace function rework.task_enqueue_many(
    operations int[], hosts text[], accepts text[], input_encodings text[], inputs jsonb[], inputs_raw bytea[],
    metadatas jsonb[], priorities int[], run_ats timestamptz[], max_attempts int[])
returns setof bigint
language plpgsql volatile
as $$
#variable_conflict use_column
begin
    -- Most tasks have nothing that could be refused.
    perform rework.task_check(g.priority, g.attempts, g.metadata)
       from unnest(priorities, max_attempts, metadatas) as g (priority, attempts, metadata)
      where g.metadata is not null or g.attempts < 1 or g.priority not between -32767 and 32767;
    return query
    with lane as materialized (
        select l.operation, l.host, l.accepts, rework.lane_make(l.operation, l.host, l.accepts) as id
          from (select distinct g.operation, g.host, g.accepts
                  from unnest(operations, hosts, accepts) as g (operation, host, accepts)) l
    ), queued_task as (
        insert into rework.task as t (operation, lane, host, priority, run_at, max_attempts, metadata,
                                      input_encoding, input, input_raw)
        select g.operation, lane.id, g.host, coalesce(g.priority, 0), coalesce(g.run_at, clock_timestamp()),
               coalesce(g.attempts, 1), g.metadata, g.input_encoding, g.input, g.input_raw
          from unnest(operations, hosts, accepts, input_encodings, inputs, inputs_raw, metadatas, priorities,
                      run_ats, max_attempts)
               with ordinality
               as g (operation, host, accepts, input_encoding, input, input_raw, metadata, priority, run_at,
                     attempts, place)
          join lane on lane.operation = g.operation
                   and lane.host is not distinct from g.host
                   and lane.accepts is not distinct from g.accepts
         order by g.place
        returning t.id, t.lane, t.priority, t.run_at
    ), delayed_task as (
        insert into rework.delayed (run_at, id, lane, rank)
        select run_at, id, lane, -priority from queued_task where run_at > clock_timestamp()
        returning id
    ), ready_task as (
        insert into rework.ready (lane, rank, id)
        select lane, -priority, id from queued_task where id not in (select id from delayed_task)
    )
    -- Ids are given in the order of the insertion.
    select id from queued_task order by id;
    perform rework.ready_tell();
end
$$;

-- Queues a task; the same rules and messages as `rework schedule`. Where versions with different inputs
-- are deployed, for one that accepts it. Answers the task, and whether it is a new one: while a task of
-- the operation with the same key exists, it is that one.
create or replace function rework.schedule_task(
    operation text, input jsonb default null, domain text default null, host text default null,
    metadata jsonb default null, priority int default null, run_at timestamptz default null,
    key text default null, max_attempts int default null, out id bigint, out is_new boolean)
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    known record;
    operation_id int;
    version record;
    attempts int;
    complete jsonb;
    queued record;
    accepted_by jsonb;
    is_accepted boolean := false;
    accepts text;
    refusal text;
begin
    if run_at not between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00' then
        raise exception 'run_at must be in the years 1 to 9999, not %', run_at using errcode = 'RW003';
    end if;
    if key = '' then
        raise exception 'the key is empty: all tasks that have it would be one' using errcode = 'RW003';
    elsif octet_length(key) > 1000 then
        raise exception 'the key has % bytes, more than 1000', octet_length(key) using errcode = 'RW003';
    end if;
    if input is not null then
        perform rework.json_check('input', input);
    end if;
    -- Most of the time one version of one operation has this name, on whatever hosts: one look tells.
    select deployed.operation, deployed.last_operation, deployed.version, deployed.last_version, p.inputs,
           p.max_attempts, l.id as lane
      into known
      from (select min(d.operation) as operation, max(d.operation) as last_operation,
                   min(d.plugin_operation) as version, max(d.plugin_operation) as last_version
              from rework.operation o
              join rework.deployment d on d.operation = o.id and d.retired is null
             where o.name = schedule_task.operation
               and (schedule_task.domain is null or o.domain = schedule_task.domain)
               and (schedule_task.host is null or d.host = schedule_task.host)) deployed
      left join rework.plugin_operation p on p.id = deployed.version
      left join rework.lane l on l.operation = deployed.operation
                             and coalesce(l.host, '') = coalesce(schedule_task.host, '')
                             and coalesce(l.accepts, '') = '';
    if known.operation = known.last_operation and known.version = known.last_version then
        if known.inputs is null then
            complete := input;
        elsif known.inputs = '[]' and input is null then
            complete := '{}';
        else
            complete := rework.input_complete(schedule_task.operation, known.inputs, input, clock_timestamp());
        end if;
        if key is null and known.lane is not null then
            id := rework.task_insert(
                known.operation, known.lane, host, case when complete is not null then 'fields' end, complete,
                metadata, coalesce(priority, 0), run_at, coalesce(schedule_task.max_attempts, known.max_attempts));
            is_new := true;
        else
            queued := rework.task_enqueue(
                known.operation, host, case when complete is not null then 'fields' end, complete, null, metadata,
                coalesce(priority, 0), run_at, key, coalesce(schedule_task.max_attempts, known.max_attempts), null,
                null, case when key is not null then rework.moments_relative(known.inputs, input) else '{}' end);
            id := queued.task_id;
            is_new := queued.is_new;
        end if;
        if is_new and known.inputs @> '[{"type": "file"}]' then
            perform rework.input_files_save(id, known.inputs, input);
        end if;
        return;
    end if;
    operation_id := rework.operation_resolve(operation, domain, host);
    for version in
        select p.inputs, (array_agg(p.max_attempts order by d.registered desc))[1] as max_attempts
          from rework.deployment d
          join rework.plugin_operation p on p.id = d.plugin_operation
         where d.operation = operation_id and d.retired is null
           and (schedule_task.host is null or d.host = schedule_task.host)
         group by p.inputs
         order by max(d.registered) desc
    loop
        begin
            if not is_accepted then
                complete := rework.input_complete(schedule_task.operation, version.inputs, input,
                                                  clock_timestamp());
                is_accepted := true;
                accepted_by := version.inputs;
                attempts := version.max_attempts;
                -- A newer version has refused it.
                accepts := case when refusal is not null then rework.inputs_digest(accepted_by) end;
            elsif complete is distinct from
                  rework.input_complete(schedule_task.operation, version.inputs, complete,
                                        clock_timestamp(), true) then
                accepts := rework.inputs_digest(accepted_by);
            end if;
        exception when sqlstate 'RW003' then
            if is_accepted then
                accepts := rework.inputs_digest(accepted_by);
            elsif refusal is null then
                get stacked diagnostics refusal = message_text;
            end if;
        end;
    end loop;
    if not is_accepted then
        raise exception '%', refusal using errcode = 'RW003';
    end if;
    queued := rework.task_enqueue(
        operation_id, host, case when complete is not null then 'fields' end, complete, null, metadata,
        coalesce(priority, 0), run_at, key, coalesce(schedule_task.max_attempts, attempts), null, accepts,
        case when key is not null then rework.moments_relative(accepted_by, input) else '{}' end);
    if queued.is_new and accepted_by @> '[{"type": "file"}]' then
        perform rework.input_files_save(queued.task_id, accepted_by, input);
    end if;
    id := queued.task_id;
    is_new := queued.is_new;
end
$$;

-- As schedule_task(); answers the task alone.
create or replace function rework.schedule(
    operation text, input jsonb default null, domain text default null, host text default null,
    metadata jsonb default null, priority int default null, run_at timestamptz default null,
    key text default null, max_attempts int default null)
returns bigint
language plpgsql volatile
as $$
begin
    return (rework.schedule_task(operation, input, domain, host, metadata, priority, run_at, key,
                                 max_attempts)).id;
end
$$;

-- Queues a task of one operation for each of these inputs, all or none, in this order; answers their ids. The
-- same rules and messages as schedule(), at a fraction of its time.
create or replace function rework.schedule_many(
    operation text, inputs jsonb[], domain text default null, host text default null,
    metadata jsonb default null, priority int default null, run_at timestamptz default null,
    max_attempts int default null)
returns setof bigint
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    count constant int := coalesce(cardinality(inputs), 0);
    known record;
    complete jsonb[] := inputs;
    given record;
begin
    if count = 0 then
        return;
    end if;
    select deployed.operation, p.inputs as specs, p.max_attempts
      into known
      from (select min(d.operation) as operation, max(d.operation) as last_operation,
                   min(d.plugin_operation) as version, max(d.plugin_operation) as last_version
              from rework.operation o
              join rework.deployment d on d.operation = o.id and d.retired is null
             where o.name = schedule_many.operation
               and (schedule_many.domain is null or o.domain = schedule_many.domain)
               and (schedule_many.host is null or d.host = schedule_many.host)) deployed
      join rework.plugin_operation p on p.id = deployed.version
     where deployed.operation = deployed.last_operation and deployed.version = deployed.last_version
       and not coalesce(p.inputs @> '[{"type": "file"}]', false)
       and (run_at is null or run_at between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00');
    if not found then
        -- Several versions, or files, or nothing of that name: one by one.
        for given in select i.input from unnest(inputs) with ordinality i (input, place) order by i.place loop
            return next rework.schedule(operation, given.input, domain, host, metadata, priority, run_at, null,
                                        max_attempts);
        end loop;
        return;
    end if;
    begin
        perform rework.json_check('input', i.input) from unnest(inputs) i (input) where i.input is not null;
        if known.specs is not null then
            complete := array(
                select rework.input_complete(schedule_many.operation, known.specs, i.input, clock_timestamp())
                  from unnest(inputs) with ordinality i (input, place) order by i.place);
        end if;
    exception when sqlstate 'RW003' then
        -- Which one it is.
        for given in select i.input, i.place from unnest(inputs) with ordinality i (input, place) order by i.place
        loop
            begin
                perform rework.json_check('input', given.input);
                perform rework.input_complete(schedule_many.operation, known.specs, given.input, clock_timestamp());
            exception when sqlstate 'RW003' then
                raise exception 'task % of %: %', given.place, count, sqlerrm using errcode = 'RW003';
            end;
        end loop;
        raise;
    end;
    return query
    select many.id
      from rework.task_enqueue_many(
               array_fill(known.operation, array[count]), array_fill(schedule_many.host, array[count]),
               array_fill(null::text, array[count]),
               array(select case when c.input is not null then 'fields' end
                       from unnest(complete) with ordinality c (input, place) order by c.place),
               complete, array_fill(null::bytea, array[count]),
               array_fill(schedule_many.metadata, array[count]),
               array_fill(coalesce(schedule_many.priority, 0), array[count]),
               array_fill(schedule_many.run_at, array[count]),
               array_fill(coalesce(schedule_many.max_attempts, known.max_attempts), array[count])) many (id);
end
$$;

-- The two with the input as text, which is what a literal without a type is: a number in it is kept as it is
-- written, where jsonb has no negative zero.
create or replace function rework.schedule_task(
    operation text, input text, domain text default null, host text default null,
    metadata jsonb default null, priority int default null, run_at timestamptz default null,
    key text default null, max_attempts int default null, out id bigint, out is_new boolean)
language sql volatile
as $$
    select queued.id, queued.is_new
      from rework.schedule_task(operation, rework.json_read(input), domain, host, metadata, priority, run_at, key,
                                max_attempts) queued
$$;

create or replace function rework.schedule(
    operation text, input text, domain text default null, host text default null,
    metadata jsonb default null, priority int default null, run_at timestamptz default null,
    key text default null, max_attempts int default null)
returns bigint
language sql volatile
as $$
    select rework.schedule(operation, rework.json_read(input), domain, host, metadata, priority, run_at, key,
                           max_attempts)
$$;

-- What becomes of tasks and workers once they are there: abort, retry, delete, vacuum, and the views
-- that show what happened.

-- --------------------------------------------------------------------------------------- tasks

-- Tells those who wait that these tasks have begun, ended or gone.
create or replace function rework.task_tell(ids bigint[])
returns void
language plpgsql volatile
as $$
declare
    payload text;
begin
    if cardinality(ids) > 0 and exists (
        -- (Nobody waits longer than a minute ahead: of such a row only the clock has been set back.)
        select from rework.waiter
         where until between clock_timestamp() and clock_timestamp() + interval '1 minute') then
        payload := array_to_string(ids, ',');
        -- A payload has less than 8000 bytes; an empty one says: look at all that you wait for.
        perform rework.tell('rework_task', case when length(payload) < 8000 then payload else '' end);
    end if;
end
$$;

-- Tasks with the columns of `rework list-tasks`, readable input and output, and what is known of the attempt
-- that runs or was the last one. This is the one place that says what state a task is in.
create or replace view rework.task_view as
select t.id, p.name as operation, p.domain, t.host,
       case when o.task is not null then o.outcome
            when a.task is not null then 'aborting'
            when r.task is not null then 'running'
            else 'queued' end as state,
       o.cause, o.error, t.priority::int as priority,
       -- What was aborted in the queue made no attempt.
       coalesce(case when o.task is not null then o.attempt - (o.token is null)::int end, r.attempt,
                (select max(s.attempt) from rework.outcome s where s.task = t.id and s.attempt > 0), 0)
           as attempt,
       -- Whoever retries a task allows it one attempt more.
       greatest(t.max_attempts, o.attempt - (o.token is null)::int, r.attempt,
                case when o.task is null and r.task is null
                     then (select max(s.attempt) + 1 from rework.outcome s where s.task = t.id) end)
           as max_attempts,
       t.metadata, t.key, t.schedule, coalesce(o.worker, r.worker) as worker, t.queued,
       -- Whoever retries a task that was to run later wants it at once.
       coalesce((select max(s.superseded) from rework.outcome s where s.task = t.id), t.run_at) as run_at,
       case when o.task is not null then o.started else r.started end as started, o.finished,
       t.input, o.output, t.input_encoding, o.output_encoding,
       t.input_raw, o.output_raw, t.lane, t.operation as operation_id,
       coalesce(o.plugin_operation, r.plugin_operation) as plugin_operation,
       case when o.task is not null then o.progress else r.progress end as progress,
       case when o.task is not null then o.progress_message else r.progress_message end as progress_message,
       o.location, o.backtrace, o.exit_code, o.signal, o.peak_memory, o.cpu_seconds
  from rework.task t
  join rework.operation p on p.id = t.operation
  left join rework.outcome o on o.task = t.id and o.superseded is null
  left join rework.running r on r.task = t.id
  left join rework.abort_request a on a.task = t.id;

-- What a task that has not ended is about, for messages. It is claimed if it does not wait in the queue.
create or replace function rework.task_doing(id bigint)
returns text
language sql stable
as $$
    select case when v.state = 'queued'
                     and not exists (select from rework.ready r
                                      where r.lane = t.lane and r.rank = -t.priority and r.id = t.id)
                     and not exists (select from rework.delayed d where d.id = t.id)
                then 'about to run'
                else v.state end
      from rework.task_view v
      join rework.task t on t.id = v.id
     where v.id = task_doing.id
$$;

-- Takes a task out of the queue, if it waits there. Answers the attempt that waited; null: it does not wait.
create or replace function rework.task_withdraw(id bigint, out attempt int)
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    t record;
begin
    select lane, -priority as rank into t from rework.task where task.id = task_withdraw.id;
    if not found then
        raise exception 'no task %', task_withdraw.id
            using errcode = 'RW001', hint = 'see `rework list-tasks`';
    end if;
    -- Tasks are moved from the delayed ones to the ready ones: whoever waits here for one that is being moved
    -- finds it there.
    for look in 1..2 loop
        delete from rework.ready r
         where r.lane = t.lane and r.rank = t.rank and r.id = task_withdraw.id
        returning r.attempt into task_withdraw.attempt;
        exit when found;
        delete from rework.delayed d where d.id = task_withdraw.id returning d.attempt into task_withdraw.attempt;
        exit when found;
    end loop;
end
$$;

-- Ends a queued task at once (answers `aborted`), asks for the end of a claimed one (`aborting`).
create or replace function rework.task_abort(id bigint, message text default null)
returns text
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    waited int := rework.task_withdraw(task_abort.id);
    ended text;
begin
    if waited is not null then
        insert into rework.outcome (task, attempt, operation, outcome, cause, error, finished)
        select t.id, waited, t.operation, 'aborted', 'abort', task_abort.message, clock_timestamp()
          from rework.task t where t.id = task_abort.id;
        -- Of a claim that was given back before anybody saw to it.
        delete from rework.abort_request a where a.task = task_abort.id;
        perform rework.task_tell(array[id]);
        return 'aborted';
    end if;
    select o.outcome into ended from rework.outcome o where o.task = task_abort.id and o.superseded is null;
    if found then
        raise exception 'task % has ended already: it is %', id, ended using errcode = 'RW004';
    end if;
    insert into rework.abort_request (task, message) values (id, message) on conflict do nothing;
    perform rework.tell('rework_abort', id::text);
    return 'aborting';
end
$$;

-- Sees to requests to abort that no monitor will see to: the task has ended, or was given back to the queue,
-- in the moment of the request.
create or replace function rework.abort_tidy()
returns void
language plpgsql volatile
as $$
declare
    request record;
begin
    for request in
        select a.task, a.message,
               exists (select from rework.task t where t.id = a.task)
               and not exists (select from rework.outcome o where o.task = a.task and o.superseded is null) as is_open
          from rework.abort_request a
           for update of a skip locked
    loop
        if not request.is_open then
            delete from rework.abort_request a where a.task = request.task;
        elsif exists (select from rework.task t
                        join rework.ready r on r.lane = t.lane and r.rank = -t.priority and r.id = t.id
                       where t.id = request.task)
              or exists (select from rework.delayed d where d.id = request.task) then
            perform rework.task_abort(request.task, request.message);
        end if;
    end loop;
exception when sqlstate 'RW001' or sqlstate 'RW004' then
    -- It has ended or gone since.
end
$$;

-- Queues an ended task once more, under its id. What the last attempt left behind stays with it; its log
-- stays.
create or replace function rework.task_retry(id bigint)
returns int
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    last int;
begin
    -- What was aborted in the queue made no attempt: its number is given again.
    delete from rework.outcome o
     using rework.outcome aborted
     where aborted.task = task_retry.id and aborted.superseded is null and aborted.token is null
       and o.task = aborted.task and o.attempt = -aborted.attempt;
    update rework.outcome o
       set superseded = clock_timestamp(),
           attempt = case when o.token is null then -o.attempt else o.attempt end
     where o.task = task_retry.id and o.superseded is null
    returning case when o.token is null then -o.attempt - 1 else o.attempt end into last;
    if not found then
        if not exists (select from rework.task t where t.id = task_retry.id) then
            raise exception 'no task %', id using errcode = 'RW001', hint = 'see `rework list-tasks`';
        end if;
        raise exception 'task % has not ended: it is %', id, rework.task_doing(id)
            using errcode = 'RW004', hint = 'only an ended task can be retried';
    end if;
    delete from rework.task_file f where f.task = task_retry.id and f.direction = 'output';
    delete from rework.abort_request a where a.task = task_retry.id;
    insert into rework.ready (lane, rank, id, attempt)
    select t.lane, -t.priority, t.id, last + 1 from rework.task t where t.id = task_retry.id;
    perform rework.tell('rework_ready', '');
    return last + 1;
end
$$;

-- Removes tasks with everything that belongs to them. The caller has taken them out of the queue, or locked
-- their outcomes.
create or replace function rework.task_purge(ids bigint[])
returns void
language sql volatile
as $$
    select rework.task_tell(ids);
    delete from rework.log where task = any(ids);
    delete from rework.task_file where task = any(ids);
    delete from rework.abort_request where task = any(ids);
    delete from rework.outcome where task = any(ids);
    delete from rework.task where id = any(ids);
$$;

-- Removes a task that has ended, or that nobody has claimed yet.
create or replace function rework.task_delete(id bigint)
returns void
language plpgsql volatile
as $$
#variable_conflict use_column
begin
    if rework.task_withdraw(task_delete.id) is null then
        perform from rework.outcome o
          where o.task = task_delete.id and o.superseded is null
            for update;
        if not found then
            raise exception 'task % has not ended: it is %', id, rework.task_doing(id)
                using errcode = 'RW004', hint = case rework.task_doing(id)
                    when 'aborting' then 'its worker is being killed: try again in a moment'
                    else format('`rework abort-task %s` ends it', id) end;
        end if;
    end if;
    perform rework.task_purge(array[id]);
end
$$;

-- Removes one batch of tasks after task `after` that ended before `before`. Answers how many, and the last one
-- it looked at; null: there are no more.
--
-- Ids are given in the order of time, so the tasks that may be that old are those before the first one that was
-- queued at `before` or later: nothing else is looked at, however many there are.
create or replace function rework.task_vacuum(
    domain text, before timestamptz, after bigint, batch int, out deleted int, out last bigint)
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    victims bigint[];
begin
    select count(*), max(c.task) into deleted, last
      from (select o.task
              from rework.outcome o
              join rework.operation p on p.id = o.operation
             where o.task > task_vacuum.after
               and o.task < rework.task_before(task_vacuum.before)
               and o.superseded is null
               and o.finished < task_vacuum.before
               and (task_vacuum.domain is null or p.domain = task_vacuum.domain)
             order by o.task
             limit task_vacuum.batch) c;
    if last is null then
        return;
    end if;
    select array_agg(l.task) into victims
      from (select o.task
              from rework.outcome o
              join rework.operation p on p.id = o.operation
             where o.task > task_vacuum.after
               and o.task <= last
               and o.superseded is null
               and o.finished < task_vacuum.before
               and (task_vacuum.domain is null or p.domain = task_vacuum.domain)
             order by o.task
               for update of o skip locked) l;
    perform rework.task_purge(victims);
    deleted := coalesce(cardinality(victims), 0);
end
$$;

-- The first task that was queued at this time or later, found as in a dictionary.
create or replace function rework.task_before(moment timestamptz)
returns bigint
language plpgsql stable
as $$
#variable_conflict use_column
declare
    low bigint;
    high bigint;
    middle bigint;
    found_at record;
begin
    select min(id), max(id) + 1 into low, high from rework.task;
    while low < high loop
        middle := low + (high - low) / 2;
        -- Of ids there are gaps.
        select t.id, t.queued into found_at from rework.task t where t.id >= middle order by t.id limit 1;
        if not found or found_at.id >= high then
            high := middle;
        elsif found_at.queued < task_before.moment then
            low := found_at.id + 1;
        else
            high := middle;
        end if;
    end loop;
    return low;
end
$$;

-- Removes one batch of tasks that nobody has claimed, up to task `upto`. Answers how many; 0: there are no more.
create or replace function rework.task_vacuum_queued(domain text, upto bigint, batch int)
returns int
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    victims bigint[];
begin
    with lanes as materialized (
        select l.id from rework.lane l join rework.operation o on o.id = l.operation
         where task_vacuum_queued.domain is null or o.domain = task_vacuum_queued.domain
    ), waiting as (
        select r.half, r.lane, r.rank, r.id from rework.ready r
         where r.lane in (select id from lanes) and r.id <= upto
         limit batch
           for update skip locked
    ), withdrawn as (
        delete from rework.ready r using waiting w
         where r.half = w.half and r.lane = w.lane and r.rank = w.rank and r.id = w.id
        returning r.id
    )
    select array_agg(id) into victims from withdrawn;
    if victims is null then
        with lanes as materialized (
            select l.id from rework.lane l join rework.operation o on o.id = l.operation
             where task_vacuum_queued.domain is null or o.domain = task_vacuum_queued.domain
        ), waiting as (
            select d.run_at, d.id from rework.delayed d
             where d.lane in (select id from lanes) and d.id <= upto
             limit batch
               for update skip locked
        ), withdrawn as (
            delete from rework.delayed d using waiting w
             where d.run_at = w.run_at and d.id = w.id
            returning d.id
        )
        select array_agg(id) into victims from withdrawn;
    end if;
    perform rework.task_purge(victims);
    return coalesce(cardinality(victims), 0);
end
$$;

-- ---------------------------------------------------------------------------------------- claims

-- Gives claimed tasks that never began back to the queue, as if nobody had claimed them; those that somebody
-- has been told are being aborted end instead. Answers those that were still in their claims.
create or replace function rework.claim_release(monitor bigint, cycles bigint[], tasks bigint[])
returns setof bigint
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    held record;
    released bigint[];
begin
    for held in
        select g.cycle, array_agg(g.task) as tasks
          from unnest(cycles, claim_release.tasks) as g (cycle, task)
         group by g.cycle
         order by g.cycle
    loop
        -- The same may be said twice at once, after a connection lost during commit.
        perform from rework.claim c
          where c.monitor = claim_release.monitor and c.cycle = held.cycle
            for no key update;
        with element as (
            select e.task, e.attempt, e.place, e.task = any(held.tasks) as is_released
              from rework.claim c, unnest(c.tasks, c.attempts) with ordinality as e (task, attempt, place)
             where c.monitor = claim_release.monitor and c.cycle = held.cycle
        ), kept as (
            update rework.claim c
               set tasks = array(select e.task from element e where not e.is_released order by e.place),
                   attempts = array(select e.attempt from element e where not e.is_released order by e.place)
             where c.monitor = claim_release.monitor and c.cycle = held.cycle
               and c.tasks && held.tasks
        ), given_back as (
            select e.task, e.attempt, t.operation, t.lane, -t.priority as rank, a.task is not null as is_unwanted,
                   a.message
              -- (Looked up one by one: the cycle's session plans once, perhaps while the tables are empty.)
              from element e
             cross join lateral (select operation, lane, priority from rework.task
                                  where task.id = e.task offset 0) t
              left join rework.abort_request a on a.task = e.task
             where e.is_released
               and not exists (select from rework.outcome o
                                where o.task = e.task and o.attempt = e.attempt offset 0)
        ), queued_again as (
            insert into rework.ready (lane, rank, id, attempt)
            select lane, rank, task, attempt from given_back where not is_unwanted
        ), ended as (
            insert into rework.outcome (task, attempt, operation, outcome, cause, error, token, finished)
            select task, attempt, operation, 'aborted', 'abort', message,
                   claim_release.monitor << 36 | held.cycle, clock_timestamp()
              from given_back where is_unwanted
        ), answered as (
            delete from rework.abort_request where task in (select task from given_back where is_unwanted)
        ), no_longer_shown as (
            delete from rework.running where task in (select task from given_back)
        )
        select array_agg(task) into released from given_back;
        perform rework.task_tell(released);
        return query select unnest(released);
    end loop;
    -- Other hosts may have room for them.
    perform rework.ready_tell();
end
$$;

-- ----------------------------------------------------------------------------------- the queue

-- Truncates the half of the queue that is not current once it has grown and is empty, so that it
-- stays small even while a forgotten transaction keeps vacuum from removing dead rows.
create or replace function rework.ready_truncate() returns boolean
language plpgsql volatile
set lock_timeout = '20ms'
as $$
declare
    half text := 'rework.ready_' || (1 - rework.ready_half());
    is_empty boolean;
begin
    if pg_relation_size(half::regclass) < 1000000 then
        return false;
    end if;
    execute format('select not exists (select from %s)', half) into is_empty;
    if not is_empty then
        return false;
    end if;
    -- Lock, look again, truncate: a transaction may have committed in between.
    execute format('lock table %s in access exclusive mode', half);
    execute format('select not exists (select from %s)', half) into is_empty;
    if is_empty then
        execute format('truncate %s', half);
    end if;
    return is_empty;
exception when lock_not_available then
    return false;
end
$$;

-- Mere housekeeping: requests to abort that nobody will see to, what is shown as running by a report that came
-- twice, and the half of the queue that is not current. Answers whether that has been truncated.
create or replace function rework.tidy()
returns boolean
language plpgsql volatile
as $$
begin
    if exists (select from rework.abort_request) then
        perform rework.abort_tidy();
    end if;
    -- (Outcomes are looked up one by one: this is planned when there are none.)
    delete from rework.running
     where task = any(array(select r.task
                              from rework.running r
                             where exists (select from rework.outcome o
                                            where o.task = r.task and o.attempt = r.attempt offset 0)
                               for update skip locked));
    return rework.ready_truncate();
end
$$;

-- ------------------------------------------------------------------------- workers and plugins

-- Asks for the end of a worker, after its task (`shutdown`) or at once (`kill`).
create or replace function rework.worker_ask(id bigint, asked text)
returns void
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    w record;
begin
    select state, cause into w from rework.worker where worker.id = worker_ask.id for update;
    if not found then
        raise exception 'no worker %', id using errcode = 'RW001', hint = 'see `rework list-workers`';
    elsif w.state = 'dead' then
        raise exception 'worker % is dead already: %', id, w.cause using errcode = 'RW004';
    end if;
    -- Once it is to be killed, nothing milder is left to ask for.
    update rework.worker
       set asked = case worker.asked when 'kill' then 'kill' else worker_ask.asked end
     where worker.id = worker_ask.id;
    perform rework.tell('rework_worker', id::text);
end
$$;

-- What other hosts run of these domains (none: all) from published plugins, for each operation in the
-- version that was deployed last, and whether this host lacks it. What it has from a file of its own
-- is left alone; what was rolled back or unregistered here is not pressed upon it again.
create or replace function rework.plugin_offered(
    host text, domains text[],
    out operation int, out plugin_operation int, out plugin int, out is_missing boolean)
returns setof record
language sql stable
as $$
    with source as (
        select distinct on (d.operation) d.operation, d.plugin_operation, p.plugin, d.registered
          from rework.deployment d
          join rework.operation o on o.id = d.operation
          join rework.plugin_operation p on p.id = d.plugin_operation
         where d.host <> plugin_offered.host
           and d.retired is null
           and not starts_with(d.path, 'published:')
           and (cardinality(domains) = 0 or o.domain = any(domains))
         order by d.operation, d.registered desc
    )
    select s.operation, s.plugin_operation, s.plugin,
           (mine.id is null
            or starts_with(mine.path, 'published:') and mine.plugin_operation <> s.plugin_operation)
           and not exists (
               select from rework.deployment b
                where b.operation = s.operation and b.host = plugin_offered.host
                  and b.plugin_operation = s.plugin_operation
                  and b.retired_by in ('rollback', 'unregistered') and b.retired > s.registered)
      from source s
      join rework.plugin_content c on c.plugin = s.plugin
      left join rework.deployment mine
             on mine.operation = s.operation and mine.host = plugin_offered.host and mine.retired is null
$$;

-- --------------------------------------------------------------------------------------- views

-- Logs, a row per line. Its `id` runs from 1 within a task.
create or replace view rework.log_line as
select l.first + n - 1 as id, l.task, l.attempt,
       to_timestamp(0) + (line->>0)::bigint * interval '1 microsecond' as time,
       line->>1 as stream, line->>2 as level, line->>3 as target, line->>4 as line
  from rework.log l,
       jsonb_array_elements(l.lines) with ordinality as unfolded (line, n);
